#!/usr/bin/env bash
# A run on a TPU slice of a GKE cluster, v5e to TPU7x, in one of three ways: a JobSet, xpk, or gcluster (the Cluster
# Toolkit). How to get a cluster: launch/README.md.
#
#   export NAME=rcsd IMAGE=us-docker.pkg.dev/my-project/rcsd/rcsd:1
#   bash launch/gke.sh image        # builds launch/Dockerfile and pushes it
#
#   export ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=8x8        # and CHIPS of a host, 4 unless set
#   bash launch/gke.sh jobset train --config=configs/rcsd.py --workdir=gs://my-bucket/runs/rcsd \
#       --config.train.micro_batches=1 --config.mesh.tensor=2     # for 64 devices, see launch/README.md
#   CLUSTER=c TYPE=v5litepod-64 bash launch/gke.sh xpk train --config=...
#   CLUSTER=c LOCATION=us-west4 TYPE=v5litepod-64 bash launch/gke.sh gcluster train --config=...
#
#   bash launch/gke.sh status
#   bash launch/gke.sh logs         # of host 0 (HOST=3: of host 3), and what follows
#   bash launch/gke.sh delete       # the run; the node pool costs as long as it is there
#
# More settings: TRIES (20 restarts), SERVICE_ACCOUNT (default), FLAGS (more flags for xpk or gcluster).
# DRY_RUN=1 prints the commands, and the JobSet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/act.sh
source launch/act.sh
verb="${1:-}"
case "$verb" in
  jobset | xpk | gcluster) [ $# -gt 1 ] || die "nothing to run: bash launch/gke.sh $verb train --config=..." ;;
  image | status | logs | delete) ;;
  *) die "gke.sh ${verb:-without a verb}: use image, jobset, xpk, gcluster, status, logs or delete" ;;
esac
shift
need NAME rcsd
TRIES="${TRIES:-20}" CHIPS="${CHIPS:-4}" SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-default}"
read -r -a flags <<<"${FLAGS:-}"

image() {
  need IMAGE us-docker.pkg.dev/my-project/rcsd/rcsd:1
  act docker build --file launch/Dockerfile --tag "$IMAGE" .
  act docker push "$IMAGE"
}

jobset() { # COMMAND FLAGS...
  need IMAGE us-docker.pkg.dev/my-project/rcsd/rcsd:1 ACCELERATOR tpu-v5-lite-podslice TOPOLOGY 8x8
  if is_dry; then
    echo "kubectl apply -f - <<'END'" && filled_in "$@" && echo END
  else
    filled_in "$@" | kubectl apply -f -
  fi
}

filled_in() { # COMMAND FLAGS...
  local text
  text="$(grep -v '^ *#' launch/gke_jobset.yaml)"
  set -- NAME "$NAME" TRIES "$TRIES" SERVICE_ACCOUNT "$SERVICE_ACCOUNT" ACCELERATOR "$ACCELERATOR" \
    TOPOLOGY "$TOPOLOGY" CHIPS "$CHIPS" HOSTS "$((${TOPOLOGY//x/ * } / CHIPS))" IMAGE "$IMAGE" \
    COMMAND "$(json_list "rcsd_jax.$1" "${@:2}")"
  while [ $# -gt 0 ]; do
    text=${text//"\${$1}"/"$2"}
    shift 2
  done
  printf '%s\n' "$text"
}

json_list() { # WORD...: ["WORD", ...]
  local word list="" backslash="\\" quote='"'
  for word in "$@"; do
    word=${word//"$backslash"/"$backslash$backslash"}
    word=${word//"$quote"/"$backslash$quote"}
    list="$list, $quote$word$quote"
  done
  printf '[%s]' "${list#, }"
}

# xpk and gcluster run the command in a shell: exec puts Python in its place, so that the TERM reaches it.
with_xpk() { # COMMAND FLAGS...
  need IMAGE us-docker.pkg.dev/my-project/rcsd/rcsd:1 CLUSTER my-cluster TYPE v5litepod-64
  # It restarts of itself after 42 and 127 to 255.
  act xpk workload create --workload="$NAME" --cluster="$CLUSTER" --tpu-type="$TYPE" --num-slices=1 \
    --docker-image="$IMAGE" --max-restarts="$TRIES" --restart-on-exit-codes=85 \
    --command="exec python -m $(quoted "rcsd_jax.$1" "${@:2}")" ${flags[@]+"${flags[@]}"}
}

with_gcluster() { # COMMAND FLAGS...
  need IMAGE us-docker.pkg.dev/my-project/rcsd/rcsd:1 CLUSTER my-cluster LOCATION us-west4 TYPE v5litepod-64
  # Its --restart-on-exit-codes brings back one host without the others, so any error is tried again here.
  act gcluster job submit --name="$NAME" --cluster="$CLUSTER" --location="$LOCATION" --compute-type="$TYPE" \
    --image="$IMAGE" --restarts="$TRIES" \
    --command="exec python -m $(quoted "rcsd_jax.$1" "${@:2}")" ${flags[@]+"${flags[@]}"}
}

status() {
  act kubectl get jobset "$NAME"
  act kubectl get pods --selector="jobset.sigs.k8s.io/jobset-name=$NAME"
}

logs() {
  local host="batch.kubernetes.io/job-completion-index=${HOST:-0}"
  act kubectl logs --follow --tail=200 --selector="jobset.sigs.k8s.io/jobset-name=$NAME,$host"
}

delete() { act kubectl delete jobset "$NAME"; }

case "$verb" in
  xpk | gcluster) "with_$verb" "$@" ;;
  *) "$verb" "$@" ;;
esac
