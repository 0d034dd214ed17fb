#!/usr/bin/env bash
# Sourced by submit scripts whose job may end before their work does.
#
#   run_interruptible command ...
#
# runs a command in the background and passes on what asks for its end: SIGUSR1, which SLURM sends two minutes
# before the time limit (#SBATCH --signal=B:USR1@120), SIGTERM, and Ctrl-C. The training then saves and exits
# with status 75. After SIGUSR1 the job puts itself back into the queue, where it continues; on a SIGTERM it does
# not, because either somebody cancelled it or SLURM, which preempts it, requeues it itself.
set -euo pipefail

interrupted_by=""
child=""

signal_child() { kill -s "$1" "$child"; }

pass_on() {
  interrupted_by="$1"
  if [[ -n "$child" ]]; then
    signal_child "$1" 2>/dev/null || true
  fi
}
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM INT

run_interruptible() {
  local status=75
  if [[ -z "$interrupted_by" ]]; then
    "$@" &
    child=$!
    [[ -z "$interrupted_by" ]] || signal_child "$interrupted_by" || true
    # Signals are heard between these naps; one that came just before a wait for the command would be heard at its end.
    while kill -0 "$child" 2>/dev/null; do
      sleep 0.5 || true
    done
    status=0
    wait "$child" || status=$?
    child=""
  fi
  if ((status == 75)) || { ((status != 0)) && [[ -n "$interrupted_by" ]]; }; then
    echo "interrupted; started again, it continues" >&2
    if [[ "$interrupted_by" == USR1 && -n "${SLURM_JOB_ID:-}" ]]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    exit 75
  fi
  return "$status"
}
