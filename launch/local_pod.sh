#!/usr/bin/env bash
# N processes on this machine as one run, the way N hosts of a pod are one: the test bed for everything that pods do.
#
#   bash launch/local_pod.sh 2 python -m rcsd_jax.train --config=configs/sft.py --workdir=runs/x
#
# DEVICES is how many CPU devices each process has (default 2), PORT where process 0 listens (default: any from 20000).
# Lines of process i begin with [i]. INT and TERM reach all of them as TERM; the exit code is the first that is not 0.
set -uo pipefail
[ $# -ge 2 ] && [ "$1" -ge 1 ] || { sed -n '2,7p' "${BASH_SOURCE[0]}" >&2; exit 2; }
processes="$1"
shift
export RCSD_COORDINATOR="127.0.0.1:${PORT:-$((20000 + RANDOM % 10000))}" RCSD_PROCESSES="$processes"
export RCSD_HEARTBEAT_SECONDS="${RCSD_HEARTBEAT_SECONDS:-30}" JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-2}"

children=()
for ((i = 0; i < processes; i++)); do
  RCSD_PROCESS="$i" "$@" > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) &
  children+=($!)
done
trap 'kill -TERM "${children[@]}" 2>/dev/null' TERM INT

code=0
for child in "${children[@]}"; do
  wait "$child"
  ended=$?
  while kill -0 "$child" 2>/dev/null; do # a signal to this script has ended the wait, not the child
    wait "$child"
    ended=$?
  done
  [ "$code" -ne 0 ] || code="$ended"
done
exit "$code"
