#!/usr/bin/env bash
# Makes the environment of one peer, or of all: bash benchmarks/peers/install.sh [transformers|trl|liger|tunix]...
# PYTHON chooses the interpreter (tunix needs 3.11 or later). On a machine without a GPU let pip find the CPU build of
# torch, which is a tenth of the size: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ $# -gt 0 ] || set -- transformers trl liger tunix
for peer in "$@"; do
  [ -f "$peer.txt" ] || { echo "no peer is called $peer" >&2; exit 1; }
  "${PYTHON:-python3}" -m venv ".venv-$peer"
  ".venv-$peer/bin/python" -m pip install --quiet -r "$peer.txt"
done
