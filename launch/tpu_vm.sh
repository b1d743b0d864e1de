#!/usr/bin/env bash
# A Cloud TPU slice (v2 to v6e, one host or many) from its creation to its end. TPU7x is not served here, see
# launch/gce_mig.md.
#
#   export NAME=rcsd ZONE=us-west4-a TYPE=v5litepod-64 BUCKET=gs://my-bucket/rcsd
#   bash launch/tpu_vm.sh create       # MODE=spot (so by default), queued or on-demand
#   bash launch/tpu_vm.sh setup        # the commit you are on and its packages, on every host
#   bash launch/tpu_vm.sh run python -m rcsd_jax.train --config=configs/rcsd.py --workdir=$BUCKET/runs/rcsd \
#       --config.train.micro_batches=1 --config.mesh.tensor=2     # for 64 devices, see launch/README.md
#   bash launch/tpu_vm.sh status
#   bash launch/tpu_vm.sh logs         # of host 0 (HOST=3: of host 3), and what follows
#   bash launch/tpu_vm.sh stop         # saves and leaves
#   bash launch/tpu_vm.sh delete       # ends what it costs; the bucket stays
#
#   bash launch/tpu_vm.sh babysit python -m rcsd_jax.train ...   # all that, again and again, until the run has ended
#
# More settings: PROJECT; VERSION (of the TPU image); FLAGS and SSH_FLAGS (more flags for create, and for ssh); COMMIT
# (what setup installs); POLL (seconds between two looks of babysit, 60). DRY_RUN=1 prints the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/act.sh
source launch/act.sh
verb="${1:-}"
case "$verb" in
  create | setup | run | status | logs | stop | delete | babysit | once) shift ;;
  *) die "tpu_vm.sh ${verb:-without a verb}: use create, setup, run, status, logs, stop, delete or babysit" ;;
esac
is_dry || command -v gcloud >/dev/null || die "gcloud is missing: install the Google Cloud CLI, then gcloud auth login"
need NAME rcsd ZONE us-west4-a TYPE v5litepod-64 BUCKET gs://my-bucket/rcsd
where=(--zone="$ZONE")
if [ -n "${PROJECT:-}" ]; then where+=(--project="$PROJECT"); fi
read -r -a flags <<<"${FLAGS:-}"
read -r -a ssh_flags <<<"${SSH_FLAGS:-}"

image() { # what the hosts boot
  case "$TYPE" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) die "TYPE is $TYPE: give v2 to v6e, as in v5litepod-64 or v6e-256; TPU7x is in launch/gce_mig.md" ;;
  esac
}

on() { # HOST COMMAND: over ssh, on one host or on "all"
  act gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --quiet --worker="$1" --command="$2" \
    ${ssh_flags[@]+"${ssh_flags[@]}"} -- -o ServerAliveInterval=30
}

on_host() { # HOST VERB...: launch/on_host.sh there
  local host="$1"
  shift
  on "$host" "bash rcsd_jax/launch/on_host.sh $(quoted "$@")"
}

create() {
  local version="${VERSION:-$(image)}" spot=()
  [ -n "$version" ] || exit 2
  case "${MODE:-spot}" in
    spot | on-demand)
      if [ "${MODE:-spot}" = spot ]; then spot=(--spot); fi
      act gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" --accelerator-type="$TYPE" --version="$version" \
        ${spot[@]+"${spot[@]}"} ${flags[@]+"${flags[@]}"}
      ;;
    queued) # FLAGS=--spot: a place in the queue for spot capacity
      act gcloud alpha compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
        --accelerator-type="$TYPE" --runtime-version="$version" ${flags[@]+"${flags[@]}"}
      is_dry || wait_for_queue
      ;;
    *) die "MODE is $MODE: use spot, queued or on-demand" ;;
  esac
}

queue() { # describe or delete, and flags
  act gcloud compute tpus queued-resources "$1" "$NAME" "${where[@]}" "${@:2}"
}

queue_state() { # WAITING_FOR_RESOURCES, ACTIVE, ...; nothing where the queue does not know it
  queue describe '--format=value(state.state)' 2>/dev/null || true
}

wait_for_queue() {
  local found
  while :; do
    found="$(queue_state)"
    echo "in the queue: ${found:-no longer}" >&2
    case "$found" in
      ACTIVE) return ;;
      "" | FAILED | SUSPEND*) return 1 ;;
      *) sleep "${POLL:-60}" ;;
    esac
  done
}

setup() {
  local commit code bundle
  commit="${COMMIT:-$(git rev-parse HEAD)}"
  code="$BUCKET/code/$commit"
  if is_dry; then
    act gcloud storage cp "COMMIT.bundle" "$code.bundle"
  elif ! gcloud storage ls "$code.bundle" >/dev/null 2>&1; then
    [ -z "$(git status --porcelain --untracked-files=no)" ] || echo "note: only what is committed goes there" >&2
    bundle="$(mktemp -d)/code.bundle"
    git bundle create --quiet "$bundle" HEAD && gcloud storage cp "$bundle" "$code.bundle" || return 1
    rm -r "$(dirname "$bundle")"
  fi
  # A clone, so that every run folder names the commit. Host 0 goes first: it settles ssh keys and package versions.
  for host in 0 all; do
    on "$host" "gcloud storage cp $code.bundle code.bundle && git init -q rcsd_jax && cd rcsd_jax &&\
 git fetch -q ../code.bundle HEAD && git checkout -q --force --detach $commit &&\
 bash launch/on_host.sh setup $code.lock" || return 1
  done
}

run() { # COMMAND...
  [ $# -gt 0 ] || die "nothing to run: bash launch/tpu_vm.sh run python -m rcsd_jax.train ..."
  on all "LOGS=$BUCKET/logs/$NAME bash rcsd_jax/launch/on_host.sh $(quoted start "$@")"
}

status() {
  act gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}" '--format=value(state)'
  on_host all code
}

logs() { on_host "${HOST:-0}" log; }

stop() { on_host all stop; }

delete() {
  # A slice that came out of the queue goes with its place there; the queue does not know any other.
  if is_dry; then
    echo "# if the queue knows it, the first, else the second"
    queue delete --force --quiet
    act gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
  elif [ -n "$(queue_state)" ]; then
    queue delete --force --quiet
  else
    gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
  fi
}

babysit() { # COMMAND...
  [ $# -gt 0 ] || die "nothing to run: bash launch/tpu_vm.sh babysit python -m rcsd_jax.train ..."
  COMMIT="${COMMIT:-$(git rev-parse HEAD)}" # of the whole run, whatever is committed here meanwhile
  export COMMIT
  if is_dry; then
    DRY_RUN=1 bash launch/babysit.sh bash launch/tpu_vm.sh once "$@"
    once "$@"
  else
    exec bash launch/babysit.sh bash launch/tpu_vm.sh once "$@"
  fi
}

once() { # COMMAND...: a slice that is there, the run on it, and the run's exit code; 85 where the slice is lost
  if is_dry; then
    echo "# a slice that is gone is made again"
    delete
    create
    setup
    stop
    run "$@"
    echo "# every ${POLL:-60} s, until every host has an exit code"
    on_host all code
    return
  fi
  make_ready || exit 85
  if [ "$(poll)" != running ]; then # a run that goes on is not started again: babysit may itself have been stopped
    if ! { setup && stop && run "$@"; }; then
      [ "$(state)" = READY ] || exit 85
      exit 1
    fi
  fi
  follow
}

state() { # READY, PREEMPTED, ...; ABSENT; or UNKNOWN where the question itself fails
  local answer
  if answer="$(gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}" '--format=value(state)' 2>&1)"; then
    echo "${answer##*$'\n'}"
  else
    case "$answer" in
      *NOT_FOUND* | *"not found"*) echo ABSENT ;;
      *) echo "$answer" >&2 && echo UNKNOWN ;;
    esac
  fi
}

make_ready() {
  local found
  while :; do
    found="$(state)"
    echo "babysit: $NAME is $found" >&2
    case "$found" in
      READY) return ;;
      ABSENT)
        case "$(queue_state)" in
          "") create && return ;;
          FAILED | SUSPEND* | ACTIVE) delete && create && return ;;
          *) wait_for_queue && return ;;
        esac
        ;;
      PREEMPTED | TERMINATED | STOPPED) delete && create && return ;; # none of these can be started again
      *) sleep "${POLL:-60}" && continue ;;
    esac
    return 1
  done
}

poll() { # running, mixed, lost, or the exit code of the run: that of the host that failed of itself, if one did
  local codes line first=""
  codes="$(on_host all code 2>/dev/null | sed -n 's/^exit: //p')"
  case "$(sort -u <<<"$codes" | tr '\n' ' ')" in
    " ") echo lost && return ;;
    "running ") echo running && return ;;
    *running* | *none*) echo mixed && return ;;
  esac
  while read -r line; do
    case "$line" in
      0) ;;
      85 | 134 | 137 | 143) first="${first:-$line}" ;; # what the others do when one host fails
      *) first="$line" && break ;;
    esac
  done <<<"$codes"
  echo "${first:-0}"
}

follow() {
  local found mixed=0
  while :; do
    sleep "${POLL:-60}"
    found="$(poll)"
    case "$found" in
      running) mixed=0 ;;
      mixed)
        mixed=$((mixed + 1))
        # The other hosts notice within 100 s that one has left. Those that do not are stuck.
        if [ "$mixed" -gt 5 ]; then stop || true; fi
        ;;
      lost)
        case "$(state)" in
          READY | UNKNOWN) echo "babysit: no answer from $NAME, asking again" >&2 ;;
          *) echo "babysit: $NAME is lost" >&2 && exit 85 ;;
        esac
        ;;
      *) exit "$found" ;;
    esac
  done
}

"$verb" "$@"
