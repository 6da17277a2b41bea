#!/usr/bin/env bash
# @SUMMARY@
# Printed by `tpu-train deploy @TARGET@`; deploy/RUNBOOK.md says what must be there first.
#
#   bash FILE          create, install and start on every host, follow the first host's log
#   bash FILE follow   follow again            bash FILE status   one line from each host
#   bash FILE logs     fetch the TensorBoard logs into ./logs
#   bash FILE stop     SIGTERM: finish the step in hand, keep the model
#   bash FILE delete   give the TPU back; nothing that is only on its disks survives
#
# Each part can be repeated: what exists is kept, what runs is left running.
set -euo pipefail

name=@NAME@
where=(--project @PROJECT@ --zone @ZONE@)
binary=@BINARY@
# Where logs and the model go, and where the data is; empty: only the hosts' disks, no data.
keep=@KEEP@
data=@DATA@
# shellcheck disable=SC2016 # each word as it was typed
arguments=(
@ARGUMENTS@
)

# @if queued
tpu() { gcloud compute tpus queued-resources "$@"; }
all=(--node=all --worker=all)
first=(--node=0 --worker=0)
ready=ACTIVE

state() { tpu describe "$name" "${where[@]}" --format='value(state.state)' 2>/dev/null || true; }

create() {
  tpu create "$name" "${where[@]}" @CREATE_FLAGS@
}

delete() { tpu delete "$name" "${where[@]}" --force --quiet; }
# @end
# @if not_queued
tpu() { gcloud compute tpus tpu-vm "$@"; }
all=(--worker=all)
first=(--worker=0)
ready=READY

state() { tpu describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null || true; }

create() {
  tpu create "$name" "${where[@]}" @CREATE_FLAGS@
}

delete() { tpu delete "$name" "${where[@]}" --quiet; }
# @end

# Creates what is missing and waits until it can be used.
await() {
  local now last=none
  if [[ -z "$(state)" ]]; then
    create
  fi
  while now="$(state)" && [[ "$now" != "$ready" ]]; do
    case "$now" in
      FAILED | SUSPEND* | DELETING | PREEMPTED | TERMINATED | STOPPED)
        echo "error: $name is $now; 'bash $0 delete', then start again" >&2
        return 1
        ;;
    esac
    if [[ "$now" != "$last" ]]; then
      echo "$name: ${now:-being created}"
      last="$now"
    fi
    sleep "${TPU_TRAIN_POLL:-20}"
  done
}

# Runs a command on every host of every slice, or on the first: each word is quoted for the remote shell.
remote() {
  local -n hosts="$1"
  shift
  tpu ssh "$name" "${where[@]}" "${hosts[@]}" --command "$(printf '%q ' "$@")"
}

settings() { printf '%s\n' env "TPU_TRAIN_KEEP=$keep" "TPU_TRAIN_DATA=$data" bash tpu-train-run/host.sh; }

install_all() {
  local files
  files="$(mktemp -d)"
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$files'" EXIT
  [[ -f "$binary" ]] || {
    echo "error: no program at $binary; 'cargo build --release' makes it" >&2
    return 1
  }
  cp "$binary" "$files/tpu-train"
  host_script >"$files/host.sh"
  supervise_script >"$files/supervise.sh"
  remote all mkdir -p tpu-train-run/incoming
  tpu scp "$files/tpu-train" "$files/host.sh" "$files/supervise.sh" "$name:tpu-train-run/incoming/" \
    "${where[@]}" "${all[@]}"
  local run
  mapfile -t run < <(settings)
  run[-1]=tpu-train-run/incoming/host.sh
  remote all "${run[@]}" install
}

start_all() {
  local run
  mapfile -t run < <(settings)
  remote all "${run[@]}" start "${arguments[@]}"
}

host_script() {
  cat <<'END_OF_HOST_SCRIPT'
@HOST_SCRIPT@END_OF_HOST_SCRIPT
}

supervise_script() {
  cat <<'END_OF_SUPERVISE_SCRIPT'
@SUPERVISE_SCRIPT@END_OF_SUPERVISE_SCRIPT
}

case "${1:-up}" in
  up)
    await
    install_all
    start_all
    remote first bash tpu-train-run/host.sh follow
    ;;
  follow) remote first bash tpu-train-run/host.sh follow ;;
  status) remote all bash tpu-train-run/host.sh status ;;
  stop) remote all bash tpu-train-run/host.sh stop ;;
  logs) tpu scp --recurse "$name:tpu-train-run/run/logs" . "${where[@]}" "${first[@]}" ;;
  delete) delete ;;
  *)
    echo "usage: bash $0 [up|follow|status|logs|stop|delete]" >&2
    exit 2
    ;;
esac
