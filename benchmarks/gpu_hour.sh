#!/usr/bin/env bash
# All measurements that wait for a GPU, in less than eight minutes, on a machine with PyTorch and without a network.
#   bash benchmarks/gpu_hour.sh [--wheels FOLDER] [--size tiny --device cpu] [--out FOLDER] [--only step,sweep] ...
# What PyTorch does not bring travels in a folder of wheels; made beforehand, for the machine's Python, e.g. by
#   pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels opencv-python-headless lmdb spandrel
#   pip wheel --no-deps -w wheels lpips==0.1.4 basicsr==1.4.2        # basicsr's side is left out where it is not there
set -uo pipefail
cd "$(dirname "$0")/.."
wheels=
if [ "${1:-}" = --wheels ]; then
  wheels=$2
  shift 2
fi
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if [ -n "$wheels" ]; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl ||
    echo "some wheels do not fit this machine; going on without them" >&2
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TGSR_CACHE="$site/cache"
python3 benchmarks/gpu_hour.py "$@"
