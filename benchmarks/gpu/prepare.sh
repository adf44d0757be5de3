#!/bin/bash
# Packs all that the kit needs on a bare GPU machine without network into one folder, .gpu-kit/ (git ignores it):
#   wheels/                 packages of the training path that torch's machine may lack, for Python 3.12 on x86_64
#   demo/data/              the demo's tokenizer and five small corpora
#   retrieva_pretrain/ ...  the committed sources, for a machine that gets this folder alone
#   bash benchmarks/gpu/prepare.sh          PYTHON=... chooses the interpreter, one that has this project installed
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
kit=$root/.gpu-kit
python=${PYTHON:-$root/.venv/bin/python}
most_megabytes=64

# Beside torch 2.11 a GPU machine is taken to have numpy, pyarrow, sentencepiece, pyyaml, psutil, typer, rich, jinja2,
# tensorboard, xxhash, safetensors and transformers; what is missing of these, README.md says how to add.
packages=(megatron-core pydantic pydantic_core annotated-types typing-inspection typing_extensions orjson isal zstandard)
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_24_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)

rm -rf "$kit/wheels.new"
pinned=()
for name in "${packages[@]}"; do
  pinned+=("$(grep -i "^$name==" "$root/constraints/python3.12.txt")")
done
if [ "$(printf '%s\n' "${pinned[@]}")" != "$(cat "$kit/wheels/pinned.txt" 2>/dev/null)" ]; then
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp "${platforms[@]/#/--platform=}" -d "$kit/wheels.new" "${pinned[@]}"
  printf '%s\n' "${pinned[@]}" > "$kit/wheels.new/pinned.txt"
  rm -rf "$kit/wheels"
  mv "$kit/wheels.new" "$kit/wheels"
fi

for part in retrieva_pretrain data_prep recipes benchmarks; do rm -rf "${kit:?}/$part"; done
git -C "$root" archive HEAD retrieva_pretrain data_prep recipes benchmarks local slurm grid_engine | tar -x -C "$kit"
git -C "$root" rev-parse HEAD > "$kit/commit"
git -C "$root" diff --quiet HEAD -- retrieva_pretrain data_prep recipes benchmarks ||
  echo "note: what is not committed is not packed" >&2

if [ ! -e "$kit/demo/data/the_stack.idx" ]; then
  PYTHONPATH=$root "$python" "$root/benchmarks/gpu/demo_data.py" "$kit"
fi

megabytes=$(du -sm "$kit" | cut -f1)
du -sh "$kit" "$kit/wheels" "$kit/demo"
if [ "$megabytes" -gt "$most_megabytes" ]; then
  echo "$kit: $megabytes MB are more than $most_megabytes" >&2
  exit 1
fi
