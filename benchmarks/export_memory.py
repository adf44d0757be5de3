"""What `retrieva import` and `retrieva export` take at the size of the 1.3 B recipe: seconds and memory.

    python benchmarks/export_memory.py TOKENIZER.model FOLDER

Writes a model of that size with drawn bf16 weights in Hugging Face's layout into FOLDER (it is removed at the end; 10 GB
of disk are used), imports it, exports the import, checks that every tensor came back bit for bit, and writes
docs/benchmarks/export-memory.md. Memory is the largest sum over a command's processes of the memory that is not shared
with files (what the kernel calls anonymous), looked at ten times a second. About 20 minutes on two cores.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.export.configuration import configuration
from retrieva_pretrain.export.export import SENTENCEPIECE
from retrieva_pretrain.export.layout import shapes_there
from retrieva_pretrain.export.names import names_there, places
from retrieva_pretrain.export.tokenizer import export_tokenizer
from retrieva_pretrain.recipe.layout import padded_vocab_size
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
PAGE = Path("docs/benchmarks/export-memory.md")
GB = 1e9


def main(tokenizer_model: Path, folder: Path) -> None:
    """Make the model, measure both commands, compare, and write the page."""
    folder.mkdir(parents=True)
    try:
        parameters = make_model(tokenizer_model, folder / "model")
        commands = {
            "import": ["import", folder / "model", folder / "imported"],
            "export": ["export", folder / "imported", folder / "exported"],
        }
        rows = []
        for name, arguments in commands.items():
            seconds, memory = measured([sys.executable, "-m", "retrieva_pretrain", *map(str, arguments)])
            rows.append((name, seconds, memory))
            print(f"{name}: {seconds:,.0f} s, {memory / GB:.1f} GB", flush=True)
        tensors = compare(folder / "model", folder / "exported")
        parity = json.loads((folder / "exported" / "export.json").read_text())["parity"]
        PAGE.write_text(page(parameters, rows, tensors, parity), encoding="utf-8")
        print(PAGE.read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder)


def make_model(tokenizer_model: Path, folder: Path) -> int:
    """Write a model of drawn weights in one file; returns the number of parameters."""
    recipe = load_yaml(Recipe, RECIPE)
    tokenizer = Tokenizer(tokenizer_model)
    padded = padded_vocab_size(tokenizer.vocab_size, recipe.tokenizer.make_vocab_size_divisible_by)
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for entry, layer in places(recipe.model, padded):
        shapes = shapes_there(entry, recipe.model)
        for name, shape in zip(names_there(entry, layer), shapes, strict=True):
            drawn = torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)
            is_gain = "norm" in name and name.endswith("weight")
            tensors[name] = drawn + 1 if is_gain else drawn
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    content = configuration(recipe.model, padded, export_tokenizer(tokenizer).ids, "bf16")
    (folder / "config.json").write_text(json.dumps(content))
    shutil.copyfile(tokenizer_model, folder / SENTENCEPIECE)
    return sum(tensor.numel() for tensor in tensors.values())


def measured(command: list[str]) -> tuple[float, int]:
    """Run a command; returns its wall time in seconds and the largest memory of its processes in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    root, most = psutil.Process(process.pid), 0
    while process.poll() is None:
        most = max(most, anonymous(root))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - started, most


def anonymous(root: psutil.Process) -> int:
    """Return the bytes of a process and its children that no file on disk stands behind."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                memory = process.memory_info()
                total += memory.rss - memory.shared
    return total


def compare(before: Path, after: Path) -> int:
    """Compare every tensor bit for bit; returns how many there are."""
    with (
        safe_open(before / "model.safetensors", "pt") as one,
        safe_open(after / "model.safetensors", "pt") as two,
    ):
        names = sorted(one.keys())
        assert names == sorted(two.keys())
        for name in names:
            assert torch.equal(one.get_tensor(name), two.get_tensor(name)), name
    return len(names)


def page(parameters: int, rows: list[tuple[str, float, int]], tensors: int, parity: dict[str, object]) -> str:
    """Return the page."""
    weights = 4 * parameters
    table = "\n".join(
        f"| `retrieva {name}` | {seconds:,.0f} | {memory / GB:.1f} | {memory / weights:.2f} |"
        for name, seconds, memory in rows
    )
    return f"""# What an export of the 1.3 B model takes

A model of the size of `recipes/retrievabert-1.3b.yaml` ({parameters:,} parameters, weights drawn, nothing trained) was
imported from Hugging Face's layout and exported again, on the CPU. All {tensors:,} tensors came back bit for bit; the
logits of both models differed by at most {parity["largest_difference"]:.2g} where the largest was
{parity["largest_logit"]:.3g}, on lengths {", ".join(map(str, parity["lengths"]))}.

- Script: `python benchmarks/export_memory.py TOKENIZER FOLDER`
- Date: {date.today()}; {platform.machine()}, Python {platform.python_version()}, torch {version("torch")},
  megatron-core {version("megatron-core")}, transformers {version("transformers")}; 2 cores, no GPU.

| command | seconds | GB of memory | of the weights in fp32 ({weights / GB:.1f} GB) |
| --- | ---: | ---: | ---: |
{table}

Seconds are of this machine, and most of them go to running both models on a text of 2,048 tokens. A checkpoint of a real
run holds optimizer states too, which an export does not read but for their checksums.
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
