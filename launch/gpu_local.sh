#!/usr/bin/env bash
# The NVIDIA GPUs of this machine: set-up of .venv with jax[cuda], then a command of rcsd_jax on all of them.
#
#   bash launch/gpu_local.sh doctor
#   bash launch/gpu_local.sh train --config=configs/rcsd.py --workdir=runs/rcsd --config.data.path=rar_science.jsonl
#
# A run that was killed is continued by the same line; with launch/babysit.sh in front that happens of itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/act.sh
source launch/act.sh
command="${1:-}"
[ -f "rcsd_jax/$command.py" ] || die "gpu_local.sh ${command:-without a command}: give one, as in train or doctor"
shift
is_dry || nvidia-smi --list-gpus || die "nvidia-smi finds no GPU: install the NVIDIA driver, or run quickstart.sh"
# shellcheck source=launch/environment.sh
act source launch/environment.sh requirements-cuda.txt
# Unless told otherwise JAX takes 75% of the memory.
act export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
act exec python -m "rcsd_jax.$command" "$@"
