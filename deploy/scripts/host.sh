#!/usr/bin/env bash
# Runs on each host of a TPU slice; the scripts that `tpu-train deploy queued-resource|tpu-vm` prints copy it there.
#
#   host.sh install               put the copied files in place, find or fetch libtpu, fetch the data
#   host.sh start ARGUMENTS…      start tpu-train in the background; does nothing when it is running already
#   host.sh status | follow | stop
#
# TPU_TRAIN_DATA  gs://BUCKET/PATH to fetch at install into ~/tpu-train-run/data; empty: none
# TPU_TRAIN_KEEP  gs://BUCKET/PATH for logs and the model; empty: they stay on this host
set -euo pipefail

base="${TPU_TRAIN_BASE:-$HOME/tpu-train-run}"
export TPU_TRAIN_OUT="$base/run"
log="$base/run.log"
pid_file="$base/pid"
lock="${TPU_TRAIN_LOCK:-/tmp/libtpu_lockfile}"

metadata() {
  curl -fsS --max-time 5 -H 'Metadata-Flavor: Google' \
    "${TPU_TRAIN_METADATA:-http://metadata.google.internal}/computeMetadata/v1/instance/attributes/$1" 2>/dev/null
}

running() {
  [[ -s "$pid_file" ]] && kill -0 "$(<"$pid_file")" 2>/dev/null &&
    tr '\0' ' ' <"/proc/$(<"$pid_file")/cmdline" | grep -q supervise.sh
}

install_files() {
  if [[ -d "$base/incoming" ]]; then
    chmod +x "$base/incoming/"*
    mv -f "$base/incoming/"* "$base/" # a rename: also while the old program runs
  fi
  "$base/tpu-train" --version
  if [[ ! -e /lib/libtpu.so && -z "${TPU_LIBRARY_PATH:-}" ]]; then
    "$base/tpu-train" plugin install tpu
  fi
  local huge=/sys/kernel/mm/transparent_hugepage/enabled
  if [[ -e "$huge" ]] && ! grep -q '\[always\]' "$huge"; then
    echo always | sudo -n tee "$huge" >/dev/null || echo "note: $huge stays as it is" >&2
  fi
  if [[ -n "${TPU_TRAIN_DATA:-}" ]]; then
    mkdir -p "$base/data"
    gcloud storage rsync --recursive "$TPU_TRAIN_DATA" "$base/data"
  fi
}

# The Megascale variables of this resource, and none that an earlier job left behind.
megascale() {
  local variable
  for variable in "${!MEGASCALE_@}"; do
    unset "$variable"
  done
  local line
  while IFS= read -r line; do
    if [[ "$line" =~ ^(MEGASCALE_[A-Z_]+):\ *\'?([^\']*)\'?$ ]]; then
      export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"
    fi
  done < <(metadata tpu-env || true)
}

clear_stale_lock() {
  if [[ -e "$lock" ]] && command -v fuser >/dev/null && ! sudo -n fuser -s "$lock"; then
    echo "removing $lock: no process holds it"
    sudo -n rm -f "$lock"
  fi
}

start() {
  if running; then
    echo "tpu-train runs already (pid $(<"$pid_file")); 'stop' ends it"
    return
  fi
  clear_stale_lock
  megascale
  TPU_TRAIN_LEADER=0
  if [[ "$(metadata agent-worker-number || echo 0)" == 0 && "${MEGASCALE_SLICE_ID:-0}" == 0 ]]; then
    TPU_TRAIN_LEADER=1
  fi
  export TPU_TRAIN_LEADER
  mkdir -p "$TPU_TRAIN_OUT"
  cd "$base"
  PATH="$base:$PATH" setsid nohup "$base/supervise.sh" "$@" >>"$log" 2>&1 </dev/null &
  echo "$!" >"$pid_file"
  echo "started as pid $(<"$pid_file"), output in $log"
}

status() {
  if running; then
    echo "running (pid $(<"$pid_file"))"
  elif [[ -s "$TPU_TRAIN_OUT/exit-status" ]]; then
    echo "ended with status $(<"$TPU_TRAIN_OUT/exit-status")"
  else
    echo "not running; see $log"
  fi
}

follow() {
  if running; then
    tail -n 100 -F --pid="$(<"$pid_file")" "$log"
  else
    tail -n 100 "$log"
  fi
  status
}

stop() {
  running || return 0
  local pid
  pid="$(<"$pid_file")"
  kill -TERM "$pid"
  for _ in $(seq "${TPU_TRAIN_GRACE:-300}"); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 1
  done
  echo "error: pid $pid is still running; 'kill -KILL -- -$pid' ends it and loses the model" >&2
  return 1
}

case "${1:-}" in
  install) install_files ;;
  start) shift && start "$@" ;;
  status) status ;;
  follow) follow ;;
  stop) stop ;;
  *)
    echo "usage: host.sh install|start|status|follow|stop" >&2
    exit 2
    ;;
esac
