#!/usr/bin/env bash
# Runs a command again for as long as it ends the way a preempted run does: 85 (it saved and left), 134 (another host
# died, or this one of several could not save), 137 or 143 (it was killed). The same command in the same workdir
# continues, so nothing else is needed.
#
#   bash launch/babysit.sh python -m rcsd_jax.train --config=configs/rcsd.py --workdir=runs/rcsd
#
# Any other exit code ends it, and it ends with that code. So does Ctrl-C or a TERM: it goes on to the command, which
# may save. It gives up after TRIES (20) runs in a row that lasted less than STEADY (600) seconds each. Before the next
# run it waits WAIT (10) seconds, after every further short one twice as long, at most 300. DRY_RUN=1 says all that.
set -euo pipefail
# shellcheck source=launch/act.sh
source "$(dirname "${BASH_SOURCE[0]}")/act.sh"
[ $# -gt 0 ] || die "babysit.sh has nothing to run: bash launch/babysit.sh COMMAND..."
tries="${TRIES:-20}" steady="${STEADY:-600}" first_pause="${WAIT:-10}"

if is_dry; then
  quoted "$@"
  echo "# again after exit code 85, 134, 137 or 143: first in $first_pause s, later in at most 300 s"
  echo "# until $tries runs in a row have lasted less than $steady s each"
  exit 0
fi

told_to_stop="" interrupted=""
pass_on() {
  told_to_stop=1 interrupted=1
  for each in $(jobs -pr); do kill -TERM "$each" 2>/dev/null || true; done
}
trap pass_on TERM INT HUP

until_ended() { # CHILD: waits for it, also over signals, and leaves its exit code in $code
  while
    interrupted="" code=0
    wait "$1" || code=$?
    [ -n "$interrupted" ]
  do :; done
}

short=0 pause="$first_pause"
while :; do
  began="$SECONDS"
  # In a process group of its own Ctrl-C reaches it once, from here: at a second signal it would end without saving.
  set -m
  "$@" </dev/null &
  set +m
  until_ended $!
  lasted=$((SECONDS - began))
  case "$code" in
    85 | 134 | 137 | 143) ;;
    *) exit "$code" ;;
  esac
  if [ "$lasted" -ge "$steady" ]; then short=0 pause="$first_pause"; fi
  short=$((short + 1))
  echo "babysit: exit code $code after $lasted s" >&2
  if [ "$short" -ge "$tries" ]; then
    echo "babysit: given up, $tries runs in a row were shorter than $steady s: read the log for what ends them" >&2
    exit "$code"
  fi
  [ -n "$told_to_stop" ] || echo "babysit: the same command again in $pause s" >&2
  for ((waited = 0; waited < pause; waited++)); do # second by second: a signal is noticed after a sleep, not in it
    [ -z "$told_to_stop" ] || break
    sleep 1
  done
  [ -z "$told_to_stop" ] || exit "$code"
  pause=$((pause * 2 < 300 ? pause * 2 : 300))
done
