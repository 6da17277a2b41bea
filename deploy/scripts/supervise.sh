#!/usr/bin/env bash
# Runs tpu-train on one host and keeps what it leaves behind. Used in pods (deploy/templates/jobset.yaml) and on
# TPU VMs (deploy/scripts/host.sh).
#
#   supervise.sh ARGUMENTS-OF-TPU-TRAIN…
#
# TPU_TRAIN_OUT     local folder for logs and the model (default /out)
# TPU_TRAIN_KEEP    where they are copied, each minute and at the end: a mounted folder, or gs://BUCKET/PATH;
#                   empty: nowhere
# TPU_TRAIN_LEADER  0 on a host that must not copy to TPU_TRAIN_KEEP (default 1)
# TPU_TRAIN_PERIOD  seconds between copies (default 60)
#
# Checkpoints go straight to TPU_TRAIN_KEEP when it is a folder, and a run that finds some resumes. After a SIGTERM
# the status is 143, never 0: a pod that was told to stop has not finished its work, and its Job must not think so.
set -euo pipefail

out="${TPU_TRAIN_OUT:-/out}"
keep="${TPU_TRAIN_KEEP:-}"
leader="${TPU_TRAIN_LEADER:-1}"
period="${TPU_TRAIN_PERIOD:-60}"
checkpoints="$out/checkpoints"
mkdir -p "$out"
rm -f "$out/exit-status"

case "$keep" in
  gs://*)
    mkdir -p "$checkpoints"
    # Every host needs the checkpoint to resume from; a bucket folder that is not there yet is a first run.
    if gcloud storage ls "$keep/checkpoints/" >/dev/null 2>&1; then
      gcloud storage rsync --recursive "$keep/checkpoints" "$checkpoints"
    fi
    ;;
  ?*)
    checkpoints="$keep/checkpoints"
    mkdir -p "$checkpoints"
    ;;
esac

copy() {
  [[ "$leader" == 1 ]] || return 0
  case "$keep" in
    gs://*) gcloud storage rsync --recursive "$out" "$keep" ;;
    ?*) cp -r --update --no-preserve=mode,ownership "$out/." "$keep/" ;;
  esac
}

# The TPU driver pins host memory; containers start with a small limit. Not every host lets us raise it.
ulimit -l 68719476736 2>/dev/null || ulimit -l unlimited 2>/dev/null ||
  echo "note: the locked-memory limit stays at $(ulimit -l) KiB" >&2

arguments=("$@" --logdir "$out/logs/fit" --out "$out/model.keras" --checkpoint-dir "$checkpoints")
if [[ -n "$(ls -A "$checkpoints" 2>/dev/null)" ]]; then
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
