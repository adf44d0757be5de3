"""How many tokens a second one core packs and masks, by the unit of masking and the length.

    python benchmarks/masking.py TOKENIZER.model FILES.jsonl.gz...

The files are LLM-jp CommonCrawl's; they are built into a corpus in a temporary folder. `mask` is the masker
alone on samples that are there, `samples` is everything from the corpus in the page cache to a step's samples.
Processor seconds of one process with one thread, the best of several rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.build import build
from data_prep.corpus import CorpusConfig
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
TOKENS_A_STEP = 1 << 17


def recipe(folder: Path, tokenizer: str, unit: str, rate: float, seq_length: int, bracketed: bool) -> Recipe:
    """The 1.3 B recipe with one stage, over the corpus in a folder."""
    apart = str(bracketed).lower()
    return load_yaml(
        Recipe,
        RECIPE,
        [
            f"tokenizer.model={tokenizer}",
            f"data.blend=[{{path: {folder / ('documents' if bracketed else 'windows')}}}]",
            f"data.reset_attention_mask={apart}",
            f"data.reset_position_ids={apart}",
            f"objective={{masking_unit: {unit}, masking_probability: {rate}}}",
            f"global_batch_size={TOKENS_A_STEP // seq_length}",
            f"curriculum=[{{seq_length: {seq_length}, train_iters: 50, max_micro_batch_size: 1}}]",
        ],
    )


def rate_of(work: Callable[[int], object], rounds: int) -> float:
    """Million tokens a processor second of steps 0 to rounds - 1, the best of three times."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for step in range(rounds):
            work(step)
        best = min(best, (time.process_time() - started) / rounds)
    return TOKENS_A_STEP / best / 1e6


def main() -> None:
    """Build the corpora, measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=10, help="steps of a measurement")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for corpus, pieces in (("windows", {}), ("documents", {"bos": "<CLS>", "eod": "<SEP>"})):
            build(
                CorpusConfig.model_validate(
                    {
                        "name": corpus,
                        "source": "llm_jp_cc",
                        "files": chosen.files,
                        "tokenizer": {"model": chosen.tokenizer},
                        **pieces,
                    }
                ),
                folder,
            )
        print(
            f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}\n"
        )
        print("| unit | rate | length | documents apart | mask, M tokens/s | samples, M tokens/s |")
        print("| --- | --- | --- | --- | --- | --- |")
        for unit in ("token", "whole_word", "span"):
            for rate, seq_length, bracketed in (
                (0.15, 128, False),
                (0.15, 2048, False),
                (0.3, 128, False),
                (0.3, 2048, False),
                (0.15, 2048, True),
            ):
                made = recipe(folder, chosen.tokenizer, unit, rate, seq_length, bracketed)
                samples = TrainingSamples(made, Corpora.open(made))
                masker, numbers = samples._maskers[0], samples.step(0)
                tokens = samples.samples(numbers)["labels"].astype(np.int64)
                alone = rate_of(
                    lambda step, m=masker, t=tokens, n=numbers: m.mask(t, n + step), chosen.rounds
                )
                whole = rate_of(lambda step, s=samples: s.samples(s.step(step)), chosen.rounds)
                apart = "yes" if bracketed else ""
                print(
                    f"| {unit} | {rate:.0%} | {seq_length} | {apart} | {alone:.1f} | {whole:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
