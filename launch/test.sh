#!/usr/bin/env bash
# Set-up, lint, format, types, tests. Arguments go to pytest, e.g. bash launch/test.sh -k sampler
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" requirements-dev.txt
# The TPU compiler that this jax was made for, 140 MB: tests compile for a TPU slice that is not here.
python -m pip install --quiet --disable-pip-version-check "jax[tpu]" ||
  echo "no libtpu for this machine: tests of the TPU compiler are skipped"
ruff check .
ruff format --check .
pyrefly check
exec python -m pytest -n 2 "$@"
