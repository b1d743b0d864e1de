#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on a host: one command that outlives the ssh connection which starts it.
#
#   on_host.sh setup LOCK     packages: as LOCK has them (gs://...), or the newest, and then LOCK is written
#   on_host.sh start COMMAND  in the background; the same command that runs already is left alone
#   on_host.sh code           a line "exit: running", "exit: none" (never started) or "exit: 85"
#   on_host.sh stop           TERM, and KILL after GRACE (90) seconds
#   on_host.sh log            the end of the log, and what follows
#
# Everything is in RUN (~/rcsd_run). LOGS=gs://... gets a copy of the log when the command ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/act.sh
source launch/act.sh
run="${RUN:-$HOME/rcsd_run}"

setup() { # LOCK
  # The Python of TPU images is too old. One resolution for all hosts and for every later machine of the run: a run
  # refuses to go on with other versions.
  local requirements="$run/requirements.lock"
  mkdir -p "$run"
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  [ -x .venv/bin/python ] || uv venv --quiet --seed --python 3.12 .venv
  export PYTHON=.venv/bin/python
  gcloud storage cp "$1" "$requirements" 2>/dev/null || requirements="requirements-tpu.txt"
  # shellcheck source=launch/environment.sh
  source launch/environment.sh "$requirements"
  if [ "$requirements" = "requirements-tpu.txt" ]; then
    python -m pip freeze >"$run/requirements.lock"
    gcloud storage cp "$run/requirements.lock" "$1"
  fi
}

is_running() { # the keeper of the run is alive, and is no stranger that got its number
  [ -f "$run/keeper" ] && tr '\0' ' ' <"/proc/$(cat "$run/keeper")/cmdline" 2>/dev/null | grep -q "on_host.sh keep"
}

is_gone() { # no process of the keeper's group is left but dead ones
  local left
  left="$(ps -e -o pgid=,stat=)" && ! grep -q "^ *$(cat "$run/keeper") [^Z]" <<<"$left"
}

start() { # COMMAND...
  if is_running; then
    [ "$(cat "$run/command")" = "$(quoted "$@")" ] || die "this host runs $(cat "$run/command"): stop it first"
    echo "runs already"
    return
  fi
  mkdir -p "$run"
  rm -f "$run/code" "$run/pid"
  quoted "$@" >"$run/command"
  # A session of its own: the end of the ssh connection does not reach it.
  setsid bash launch/on_host.sh keep "$@" >>"$run/log" 2>&1 </dev/null &
  echo "$!" >"$run/keeper"
  for _ in {1..100}; do # until there is something that can be stopped
    [ ! -s "$run/pid" ] || return 0
    sleep 0.1
  done
  die "the command does not start: see $run/log"
}

keep() { # COMMAND...: waits for it and notes how it ended
  local child interrupted="" code
  trap 'interrupted=1' TERM HUP # at shutdown the system tells all processes, and the command needs its keeper
  if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
  unset JAX_PLATFORMS
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/jax}" # a bucket would be too slow
  "$@" &
  child=$!
  echo "$child" >"$run/pid"
  while
    interrupted="" code=0
    wait "$child" || code=$?
    [ -n "$interrupted" ]
  do :; done
  echo "$code" >"$run/code"
  if [ -n "${LOGS:-}" ]; then gcloud storage cp "$run/log" "$LOGS/$(hostname).log" || true; fi
}

code() {
  local ended=none
  if is_running; then
    ended=running
  elif [ -f "$run/code" ]; then
    ended="$(cat "$run/code")"
  elif [ -f "$run/command" ]; then
    ended=137 # nobody was left to note it: the machine went down
  fi
  echo "exit: $ended"
}

stop() {
  local waited=0
  is_running || return 0
  # To the command alone: it may need its own children while it saves.
  kill -TERM "$(cat "$run/pid")" 2>/dev/null || true
  while is_running; do
    if [ "$waited" -ge "${GRACE:-90}" ]; then
      kill -KILL -- "-$(cat "$run/keeper")" 2>/dev/null || true
      echo 137 >"$run/code"
      for _ in {1..100}; do # it gives back gigabytes, and the chips, before it is gone
        is_gone || { sleep 0.1 && continue; }
        return 0
      done
      die "what was killed does not end: see ps -e -o pgid,pid,stat,args | grep $(cat "$run/keeper")"
    fi
    sleep 1
    waited=$((waited + 1))
  done
}

log() { exec tail -n "${LINES_SHOWN:-200}" -F "$run/log"; }

verb="${1:-}"
case "$verb" in
  setup | start | keep | code | stop | log) shift && "$verb" "$@" ;;
  *) die "on_host.sh ${verb:-without a verb}: use setup, start, code, stop or log" ;;
esac
