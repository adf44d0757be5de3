"""How a checkpoint divides over ranks: bytes written and held per rank, stall, and seconds to load.

    python benchmarks/checkpoint_shares.py

Starts 1, 2, 4 and 8 processes on the CPU, one number after the other. Each time a model of 50 M parameters takes a step, is
saved three times and loaded once (bf16, distributed optimizer). Writes docs/benchmarks/checkpoint-shares.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks" / "checkpoint-shares.md"
PROCESSES = (1, 2, 4, 8)
SAVES = 3
SHAPE = {"num_layers": 11, "hidden_size": 640, "ffn_hidden_size": 1706, "num_attention_heads": 10}
# The word embedding is a tenth of the parameters, as in the 1.3 B model.
VOCABULARY = 8_192


def main() -> None:
    """Measure and write the page."""
    others, found = os.getloadavg()[0], {}
    for processes in PROCESSES:
        with tempfile.TemporaryDirectory(prefix="checkpoint-shares-") as folder:
            command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
            command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
            subprocess.run([*command, __file__, folder], env=environment, cwd=REPOSITORY, check=True)
            found[processes] = json.loads((Path(folder) / "found.json").read_text())
    PAGE.write_text(page(found, others), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def measure(folder: Path) -> None:
    """Be one rank: save and load."""
    import torch.distributed as dist
    from torch.distributed.checkpoint import FileSystemReader

    from benchmarks.checkpoint_stall import Records, invented
    from retrieva_pretrain.model.build import build_model, wrap_model
    from retrieva_pretrain.model.optimizer import build_optimizer, set_learning_rate
    from retrieva_pretrain.platform.quiet import quiet_upstream
    from retrieva_pretrain.recipe.loading import load_yaml
    from retrieva_pretrain.recipe.schema import Recipe
    from retrieva_pretrain.training.checkpoint import Checkpointer
    from retrieva_pretrain.training.distributed import initialize, largest_of_processes, shut_down
    from retrieva_pretrain.training.run_folder import RunFolder
    from retrieva_pretrain.training.shards import load_shards
    from retrieva_pretrain.training.step import prepare_gradients, run_micro_batches, update_weights

    quiet_upstream()
    settings = [f"model.{name}={value}" for name, value in SHAPE.items()]
    recipe = load_yaml(Recipe, REPOSITORY / "recipes" / "retrievabert-1.3b.yaml", settings)
    ranks = initialize(recipe)
    model = wrap_model(recipe, build_model(recipe, VOCABULARY))
    optimizer = build_optimizer(recipe, model)
    set_learning_rate(optimizer, recipe, 1e-4)
    model.zero_grad_buffer()
    drawn = invented(ranks.rank)
    batch = replace(drawn, input_ids=drawn.input_ids % VOCABULARY, labels=drawn.labels % VOCABULARY)
    run_micro_batches(model, iter([batch]), seq_length=128, micro_batch_size=8, num_microbatches=1)
    update_weights(optimizer, 1.0, prepare_gradients(optimizer))
    records: Any = Records()
    config = recipe.checkpoint.model_copy(update={"keep": 1})
    run = RunFolder(folder / "run")
    saver = Checkpointer(run, {}, config, ranks, metrics=records if ranks.is_first else None)
    for step in range(1, SAVES + 1):
        saver.save(step, model, optimizer, {})
        saver.finish()
    asked = 0

    def counted(reader: Any, plan: Any, planner: Any) -> Any:
        """Read as torch does, which takes the whole stored bytes of every entry that is planned, and count these."""
        nonlocal asked
        asked += sum(reader.storage_data[item.storage_index].length for item in plan.items)
        return read_data(reader, plan, planner)

    # Whatever reader megatron-core chooses inherits it. Not counted: `.metadata`, which every rank reads.
    read_data, FileSystemReader.read_data = FileSystemReader.read_data, counted  # type: ignore[method-assign]
    started = time.perf_counter()
    load_shards(run.checkpoint(SAVES), model, optimizer)
    seconds = largest_of_processes(time.perf_counter() - started)
    read: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(read, asked)
    if ranks.is_first:
        parameters = sum(p.numel() for p in model.parameters())
        content = {"saves": records.saves, "load_seconds": seconds, "read": read, "parameters": parameters}
        (folder / "found.json").write_text(json.dumps(content))
    shut_down()


def page(found: dict[int, dict[str, Any]], others: float) -> str:
    """Return the page of the results; `others` is the machine's load before its own processes began."""
    busy = "busy with other work" if others > 0.5 else "quiet otherwise"
    rows = []
    for processes, content in found.items():
        save = sorted(content["saves"], key=lambda record: record["stall_seconds"])[SAVES // 2]
        of = {name: [rank[name] for rank in save["per_rank"]] for name in save["per_rank"][0]}
        rows.append(
            f"| {processes} | {max(of['bytes_written']) / 1e6:,.1f} | {statistics.mean(of['bytes_written']) / 1e6:,.1f} |"
            f" {max(of['host_bytes']) / 1e6:,.1f} | {statistics.mean(of['host_bytes']) / 1e6:,.1f} |"
            f" {max(of['device_bytes']) / 1e6:,.1f} | {statistics.mean(of['device_bytes']) / 1e6:,.1f} |"
            f" {max(content['read']) / 1e6:,.1f} | {statistics.mean(content['read']) / 1e6:,.1f} |"
            f" {max(of['stall_seconds']):.2f} | {content['load_seconds']:.2f} |"
        )
    parameters = next(iter(found.values()))["parameters"]
    largest = VOCABULARY * SHAPE["hidden_size"]
    table = "\n".join(rows)
    return f"""# How a checkpoint divides over ranks

- Script: `python benchmarks/checkpoint_shares.py`; its first lines say what is measured.
- Date: {date.today()}; {platform.machine()}, {os.cpu_count()} CPUs, no GPU; load average {others:.1f} before it began: {busy}. Python
  {platform.python_version()}, torch {version("torch")}, megatron-core {version("megatron-core")}.

{parameters / 1e6:.0f} M parameters in bf16 with the distributed optimizer, the save with the median stall of {SAVES}. MB per rank.

| ranks | written, most | mean | held in host memory, most | mean | put together on the device, most | mean | read, most | mean | stall, s | load, s |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}

Read: the stored bytes of the tensors that a rank takes from the files in a load.
All ranks share {os.cpu_count()} CPUs and one disk, so the seconds say little about nodes; the bytes do not depend on that. The
word embedding, {largest / 1e6:.1f} M parameters, is saved whole by one rank (12 bytes each): it bounds what more ranks can gain. In
the 1.3 B model the bound is 1.8 of 18.2 GB, which ten ranks reach.
"""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.path.insert(0, str(REPOSITORY))
        measure(Path(sys.argv[1]))
    else:
        main()
