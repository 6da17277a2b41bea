#!/usr/bin/env bash
# Runs tpu-train on one host and keeps what it leaves behind. Used in pods (deploy/templates/jobset.yaml) and on
# TPU VMs (deploy/scripts/host.sh).
#
#   supervise.sh ARGUMENTS-OF-TPU-TRAIN…
#
# TPU_TRAIN_OUT     local folder for logs and the model (default /out)
# TPU_TRAIN_KEEP    where they are copied, each minute and at the end: a mounted folder, or gs://BUCKET/PATH;
#                   empty: nowhere
# TPU_TRAIN_LEADER  1 on the host that copies to TPU_TRAIN_KEEP, 0 on the others (default: the first host of the first
#                   slice, by TPU_WORKER_ID and MEGASCALE_SLICE_ID; it is the one where tpu-train writes)
# TPU_TRAIN_PERIOD  seconds between copies (default 60)
#
# A run that finds its model, here or in TPU_TRAIN_KEEP, goes on with it (--resume). After a SIGTERM the status is
# 143, never 0: a pod that was told to stop has not finished its work, and its Job must not think so.
set -euo pipefail

out="${TPU_TRAIN_OUT:-/out}"
keep="${TPU_TRAIN_KEEP:-}"
leader=0
if [[ "${TPU_WORKER_ID:-0}" == 0 && "${MEGASCALE_SLICE_ID:-0}" == 0 ]]; then
  leader=1
fi
leader="${TPU_TRAIN_LEADER:-$leader}"
period="${TPU_TRAIN_PERIOD:-60}"
model="$out/model.keras"
mkdir -p "$out"
rm -f "$out/exit-status"

# The model of the run so far, to a host that has none. Only "it is not there" makes a first run: whoever took any
# other failure for that would train from nothing and write over the model.
fetch() {
  local problem
  case "$keep" in
    gs://*)
      if problem="$(gcloud storage ls "$keep/model.keras" 2>&1 >/dev/null)"; then
        gcloud storage cp "$keep/model.keras" "$model"
      elif [[ "$problem" != *"matched no objects"* ]]; then
        echo "error: cannot look for $keep/model.keras: $problem" >&2
        return 1
      fi
      ;;
    ?*) if [[ -e "$keep/model.keras" ]]; then cp "$keep/model.keras" "$model"; fi ;;
  esac
}
[[ -e "$model" ]] || fetch

copy() {
  [[ "$leader" == 1 ]] || return 0
  case "$keep" in
    gs://*) gcloud storage rsync --recursive "$out" "$keep" ;;
    ?*) copy_to_folder ;;
  esac
}

# The model by a rename: a copy that is cut off leaves the last one whole.
copy_to_folder() {
  mkdir -p "$keep"
  if [[ -d "$out/logs" ]]; then
    cp -r --update --no-preserve=mode,ownership "$out/logs" "$keep/" || return
  fi
  if [[ "$model" -nt "$keep/model.keras" ]]; then
    cp "$model" "$keep/.model.keras" && mv -f "$keep/.model.keras" "$keep/model.keras"
  fi
}

# The TPU driver pins host memory; containers start with a small limit. Not every host lets us raise it.
ulimit -l 68719476736 2>/dev/null || ulimit -l unlimited 2>/dev/null ||
  echo "note: the locked-memory limit stays at $(ulimit -l) KiB" >&2

arguments=("$@" --logdir "$out/logs/fit" --out "$model")
if [[ -e "$model" ]]; then
  arguments+=(--resume)
fi

tpu-train "${arguments[@]}" &
child=$!
stopped=0
trap 'stopped=1; kill -TERM "$child" 2>/dev/null || true' TERM INT

# Ends between two copies, never within one.
copy_again_and_again() {
  trap 'exit 0' TERM
  while true; do
    sleep "$period" &
    wait "$!"
    copy || true
  done
}
copy_again_and_again </dev/null >/dev/null 2>&1 &
copier=$!

# `wait` returns early when the trap runs: wait again until the child itself is gone.
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do
  status=0
  wait "$child" || status=$?
done
kill "$copier" 2>/dev/null || true
wait "$copier" 2>/dev/null || true

if [[ "$stopped" == 1 ]]; then
  status=143
fi
copy || {
  echo "error: could not copy $out to $keep" >&2
  [[ "$status" != 0 ]] || status=1
}
echo "$status" >"$out/exit-status"
exit "$status"
