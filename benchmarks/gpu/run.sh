#!/bin/bash
# Measures this machine's GPU: bash benchmarks/gpu/run.sh [arguments of run.py]
# Needs what prepare.sh has packed, and no network. PYTHON=... chooses the interpreter; otherwise it is the repository's
# .venv, or else python3, whose missing packages are installed from the packed wheels into a temporary folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
kit=$root/.gpu-kit
if [ -d "$root/wheels" ]; then kit=$root; fi
python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=python3; fi
fi
for word in "$@"; do
  if [ "$word" = --help ] || [ "$word" = -h ]; then exec "$python" "$root/benchmarks/gpu/run.py" --help; fi
done
if [ ! -d "$kit/demo/data" ]; then
  echo "$kit: not packed; run make gpu-prepare (benchmarks/gpu/prepare.sh) first" >&2
  exit 1
fi
path=$root${PYTHONPATH:+:$PYTHONPATH}
needed='"megatron.core", "pydantic", "pydantic_core", "typing_inspection", "orjson", "isal", "zstandard"'
if ! "$python" -c "from importlib.util import find_spec as f; exit(not all(map(f, [$needed])))" 2>/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "$kit"/wheels/*.whl
  path=$root:$site${PYTHONPATH:+:$PYTHONPATH}
fi
PYTHONPATH=$path "$python" "$root/benchmarks/gpu/run.py" "$@"
