#!/usr/bin/env bash
# N processes on this machine as one run, the way N hosts of a pod are one: the test bed for everything that pods do.
#
#   bash launch/local_pod.sh 2 python -m rcsd_jax.train --config=configs/sft.py --workdir=runs/x
#
# DEVICES is how many CPU devices each process has (2), PORT where process 0 listens (any from 20000). What process i
# says begins with [i]. INT and TERM reach all of them as TERM. It ends with 0 where all did, with 85, 134, 137 or 143
# where the same command may be run again, and with another code where one process ended with that. DRY_RUN=1 prints
# the commands.
set -uo pipefail
# shellcheck source=launch/act.sh
source "$(dirname "${BASH_SOURCE[0]}")/act.sh"
[[ $# -ge 2 && "$1" =~ ^[1-9][0-9]*$ ]] || die "how many processes, and of what: bash launch/local_pod.sh 2 COMMAND..."
processes="$1"
shift
pod=(
  "RCSD_COORDINATOR=127.0.0.1:${PORT:-$((20000 + RANDOM % 10000))}" "RCSD_PROCESSES=$processes"
  JAX_PLATFORMS=cpu
  "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=${DEVICES:-2}"
)

children=() writers=() error=""
for ((i = 0; i < processes; i++)); do
  if is_dry; then
    quoted env "${pod[@]}" "RCSD_PROCESS=$i" "$@"
    continue
  fi
  exec {lines}> >(exec sed -u "s/^/[$i] /")
  writers+=($!)
  env "${pod[@]}" "RCSD_PROCESS=$i" "$@" >&"$lines" 2>&1 {lines}>&- &
  children+=($!)
  exec {lines}>&-
done
trap 'kill -TERM "${children[@]}" 2>/dev/null' TERM INT

code=0
for child in ${children[@]+"${children[@]}"}; do
  while
    wait "$child"
    ended=$?
    kill -0 "$child" 2>/dev/null # a signal to this script has ended the wait, not the child
  do :; done
  case "$ended" in
    0) ;;
    85 | 134 | 137 | 143) [ "$code" -ne 0 ] || code="$ended" ;;
    *) error="${error:-$ended}" ;;
  esac
done
for writer in ${writers[@]+"${writers[@]}"}; do
  while kill -0 "$writer" 2>/dev/null; do sleep 0.05; done # its last lines
done
exit "${error:-$code}"
