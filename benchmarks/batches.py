"""How fast batches come, against megatron-core's BERT dataset, and what the order of 100 M documents costs.

    python benchmarks/batches.py --source /data/llm-jp-cc --tokenizer llm-jp-tokenizer-100k.ver3.0b1.model

The Japanese *.jsonl.gz of --source become a corpus. From it, on one core and one thread, come the samples of the
1.3 B recipe's first and last stage (`TrainingSamples.micro_batches`, at the stage's largest micro-batch) and
samples of the same lengths from megatron-core's `BERTMaskedWordPieceDataset`, which wants the same tokens cut into
sentences. Counted for both: positions of the samples, special tokens and padding included, in a second of CPU time
(the machine may be busy), after a first step that warms up; the best of three rounds.

Then --documents document lengths are drawn from the real ones into an .idx as large as that of a corpus of
hundreds of GB; its .bin is a hole of the right size, so no disk is read for tokens. `retrieva data index` makes
the files for one epoch, and fresh processes read all of step 400,000 of the 1.3 B recipe. Writes
docs/benchmarks/batches.md. Takes about three minutes and 2.1 GB of disk.
"""

from __future__ import annotations

import os

# One thread, said before numpy and torch are loaded.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.build import build
from data_prep.corpus import CorpusConfig
from data_prep.indexed import IndexedDataset, IndexedDatasetWriter, write_index
from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.batches import TrainingSamples
from retrieva_pretrain.data.corpora import Corpora, SpecialTokens
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

RECIPE = Path("recipes/retrievabert-1.3b.yaml")
PAGE = Path("docs/benchmarks/batches.md")
STAGES = {128: 0, 2048: 3}
STEP = 400_000
SECONDS = 2.0
ROUNDS = 3


def main() -> None:
    """Measure, write the page and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of *.jsonl.gz with a `text`")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000_000)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resume:
        resume(options.resume, options.tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = real_corpus(Path(folder), options)
        speeds = compare(corpus, options.tokenizer)
        large = synthetic_corpus(Path(folder) / "large", corpus, options.documents)
        index, resumes = measure_index(large, options)
    PAGE.write_text(page(corpus.name, speeds, options.documents, index, resumes), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def real_corpus(folder: Path, options: argparse.Namespace) -> Path:
    """Build the corpus of the real files."""
    config = {
        "name": "ja_cc",
        "source": "llm_jp_cc",
        "files": [str(options.source / "*.jsonl.gz")],
        "tokenizer": {"model": str(options.tokenizer)},
    }
    build(CorpusConfig.model_validate(config), folder)
    return folder / "ja_cc"


def recipe_over(prefix: Path, tokenizer: Path) -> Recipe:
    """Return the 1.3 B recipe over one corpus."""
    return load_yaml(
        Recipe, RECIPE, [f"data.blend=[{{path: '{prefix}'}}]", f"tokenizer.model={tokenizer.resolve()}"]
    )


# Speed.


def compare(corpus: Path, tokenizer: Path) -> dict[int, tuple[float, float]]:
    """Return M positions a second by length: ours and megatron-core's."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    speeds = {}
    for length, stage in STAGES.items():
        rounds = [(ours(corpus, tokenizer, stage), theirs(corpus, tokenizer, length)) for _ in range(ROUNDS)]
        speeds[length] = (max(our for our, _ in rounds), max(their for _, their in rounds))
    return speeds


def positions_a_second(batches: Iterator[int], warm_up: int) -> float:
    """Return M positions a second of CPU time, of an iterator over the positions of batches."""
    for _ in islice(batches, warm_up):
        pass
    started, positions, seconds = time.process_time(), 0, 0.0
    while seconds < SECONDS:
        positions += next(batches)
        seconds = time.process_time() - started
    return positions / seconds / 1e6


def ours(corpus: Path, tokenizer: Path, stage: int) -> float:
    """Measure the samples of a stage of the recipe."""
    recipe = recipe_over(corpus, tokenizer)
    samples = TrainingSamples(recipe, Corpora.open(recipe))
    size = recipe.curriculum[stage].max_micro_batch_size
    first = samples.positions.curriculum.stage_steps(stage)[0]

    def batches() -> Iterator[int]:
        for step in range(first, first + recipe.curriculum[stage].train_iters):
            for _, batch in samples.micro_batches(step, 0, 1, size):
                yield batch["input_ids"].size

    return positions_a_second(batches(), recipe.global_batch_size // size)


def theirs(corpus: Path, tokenizer: Path, length: int) -> float:
    """Measure megatron-core's dataset as it is meant: whole words off, no n-grams, one segment."""
    import torch
    from megatron.core.datasets.bert_dataset import (
        BERTMaskedWordPieceDataset,
        BERTMaskedWordPieceDatasetConfig,
    )
    from megatron.core.datasets.indexed_dataset import IndexedDataset as MegatronIndexedDataset
    from megatron.core.datasets.utils import Split
    from torch._C._distributed_c10d import HashStore

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    sentences = sentences_of(corpus, tokenizer)
    config = BERTMaskedWordPieceDatasetConfig(
        random_seed=1,
        sequence_length=length,
        blend=([str(sentences)], None),
        split="1,0,0",
        path_to_cache=str(corpus.parent / "cache"),
        tokenizer=WordPieceLike(Tokenizer(tokenizer)),
        masking_probability=0.15,
        short_sequence_probability=0.0,
        masking_max_ngram=1,
        masking_do_full_word=False,
        masking_do_permutation=False,
        masking_use_longer_ngrams=False,
        masking_use_geometric_distribution=False,
        classification_head=False,
    )
    documents = MegatronIndexedDataset(str(sentences))
    indices = np.arange(len(documents.document_indices) - 1, dtype=np.int32)
    dataset = BERTMaskedWordPieceDataset(documents, str(sentences), indices, 20_000, Split.train, config)

    def batches() -> Iterator[int]:
        while True:
            for number in range(len(dataset)):
                yield dataset[number]["text"].size

    return positions_a_second(batches(), 20)


class WordPieceLike:
    """What megatron-core's dataset asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = SpecialTokens.of(tokenizer)
        self.cls, self.sep, self.mask, self.pad = special.cls, special.sep, special.mask, special.pad
        self.inv_vocab = {number: tokenizer.id_to_piece(number) for number in range(tokenizer.vocab_size)}
        self.vocab_size = tokenizer.vocab_size
        self.unique_identifiers = {"class": "sentencepiece"}


def sentences_of(corpus: Path, tokenizer: Path) -> Path:
    """Write the corpus again with a sequence a sentence: megatron-core leaves out documents that are one long one."""
    prefix = corpus.with_name("sentences")
    if prefix.with_name("sentences.idx").exists():
        return prefix
    stop = Tokenizer(tokenizer).piece_id("。")
    dataset = IndexedDataset(corpus)
    lengths: list[int] = []
    documents = [0]
    for number in range(dataset.num_documents):
        tokens = dataset.document(number)
        cuts = sorted({0, len(tokens), *(np.flatnonzero(tokens == stop) + 1).tolist()})
        for start, end in pairwise(cuts):
            lengths += [min(120, end - at) for at in range(start, end, 120)]
        documents.append(len(lengths))
    with IndexedDatasetWriter(prefix, dataset.dtype) as writer:
        at = 0
        for length in lengths:
            writer.add_document(dataset.tokens[at : at + length])
            at += length
        writer.finish()
        writer.publish()
    # Our writer makes a document of every sequence; the documents are put right behind it.
    index = bytearray(prefix.with_name("sentences.idx").read_bytes())
    index[26:34] = len(documents).to_bytes(8, "little")
    index[34 + 12 * len(lengths) :] = np.array(documents, dtype="<i8").tobytes()
    prefix.with_name("sentences.idx").write_bytes(index)
    return prefix


# The order of very many documents.


def synthetic_corpus(folder: Path, real: Path, documents: int) -> Path:
    """Write an .idx of lengths drawn from a real corpus's, and a hole for a .bin."""
    folder.mkdir()
    prefix, draw = folder / "large", np.random.default_rng(0)
    some = np.asarray(IndexedDataset(real).sequence_lengths)
    lengths = np.concatenate(
        [draw.choice(some, min(1 << 20, documents - start)) for start in range(0, documents, 1 << 20)]
    )
    with prefix.with_name("large.idx").open("wb") as stream:
        write_index(stream.write, lengths, np.dtype("<i4"))
    tokens = int(lengths.sum(dtype=np.int64))
    with prefix.with_name("large.bin").open("wb") as stream:
        stream.truncate(4 * tokens)
    content = Manifest.load(real).model_dump()
    content |= {"name": "large", "append_eod": False, "eod": None, "files": []}
    content["counts"] |= {"documents": documents, "tokens": tokens}
    content["outputs"]["bin"]["bytes"] = 4 * tokens
    content["outputs"]["idx"]["bytes"] = prefix.with_name("large.idx").stat().st_size
    Manifest.model_validate(content).save(prefix)
    return prefix


# Runs a program and tells its memory in a last line of JSON. A process of its own, because a child counts the memory
# of its parent until it has begun.
WATCH = """
import json, re, resource, subprocess, sys, time
child, own = subprocess.Popen([sys.executable, *sys.argv[1:]]), 0
while child.poll() is None:
    try:
        status = open(f"/proc/{child.pid}/status").read()
        own = max(own, *map(int, re.findall(r"RssAnon:\\s+(\\d+)", status)), 0)
    except OSError:
        pass
    time.sleep(0.02)
most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"own": own / 1e3, "memory": most / 1e3}))
sys.exit(child.returncode)
"""


def child(command: list[str]) -> tuple[Any, dict[str, float]]:
    """Run a program: the JSON it prints, and its largest memory in MB, resident and anonymous (its own)."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    *output, memory = done.stdout.splitlines()
    return json.loads("\n".join(output)), json.loads(memory)


def measure_index(
    prefix: Path, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return what making the index costs, and the seconds of resuming by state of the page cache."""
    arguments = [f"data.blend=[{{path: '{prefix}'}}]", f"tokenizer.model={options.tokenizer.resolve()}"]
    command = ["-m", "retrieva_pretrain", "data", "index", str(RECIPE), *arguments, "--epochs", "1", "--json"]
    (counts, order), memory = child(command)
    index = {
        "count_seconds": counts["seconds"],
        "order_seconds": order["seconds"],
        "order_megabytes": order["bytes"] / 1e6,
        **memory,
    }
    again = ["benchmarks/batches.py", "--source", ".", "--tokenizer", str(options.tokenizer)]
    resumes = {}
    for state in ("cold", "warm"):
        if state == "cold":
            forget(prefix.parent)
        resumes[state], _ = child([*again, "--resume", str(prefix)])
    return index, resumes


def forget(folder: Path) -> None:
    """Have the system forget what it holds of files in memory."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resume(prefix: Path, tokenizer: Path) -> None:
    """Open the corpus and read all of step 400,000, in a process that has done nothing but import; print JSON."""

    cpu = time.process_time()

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    made: dict[str, TrainingSamples] = {}
    recipe = recipe_over(prefix, tokenizer)

    def open_corpus() -> None:
        made["samples"] = TrainingSamples(recipe, Corpora.open(recipe))

    def read(step: int) -> None:
        for _ in made["samples"].micro_batches(step, 0, 1, 32):
            pass

    seconds = {"open": timed(open_corpus), "step": timed(lambda: read(STEP))}
    seconds["cpu"] = time.process_time() - cpu
    seconds["next"] = timed(lambda: read(STEP + 1))
    seconds["tokenizer"] = timed(lambda: SpecialTokens.of(Tokenizer(tokenizer)))
    print(json.dumps(seconds))


def page(
    name: str,
    speeds: dict[int, tuple[float, float]],
    documents: int,
    index: dict[str, float],
    resumes: dict[str, dict[str, float]],
) -> str:
    """Return the page."""
    rows = "\n".join(
        f"| {length} | {our / their:,.0f} x | {our:.1f} | {their:.3f} |"
        for length, (our, their) in speeds.items()
    )
    return f"""# How fast batches come, and what the order of {documents / 1e6:,.0f} M documents costs

- Script: `python benchmarks/batches.py --source FOLDER --tokenizer MODEL`; its first lines say what is measured.
- Date: {date.today().isoformat()}; {os.cpu_count()} CPU cores, no GPU; load average {os.getloadavg()[0]:.1f} at the end.
  Python {sys.version.split()[0]}, numpy {version("numpy")}, megatron-core {version("megatron-core")}.

## Masking and packing on one core

Real Japanese web text ({name}), LLM-jp's tokenizer of 100 k pieces; M positions a second of CPU time.

| length | ratio | ours | megatron-core's `BERTMaskedWordPieceDataset` |
| ---: | ---: | ---: | ---: |
{rows}

## {documents:,} documents

Resuming at step {STEP:,} in a fresh process, beyond its imports: recipe, corpus and tokenizer opened, then all
1,024 samples of the step (a process of 32 reads a 32nd of them). Seconds on the clock, so a busy machine counts.

| files in memory | together (CPU time) | opening (of that, the tokenizer) | the step | the next step |
| --- | ---: | ---: | ---: | ---: |
{resume_row("yes", resumes["warm"])}
{resume_row("no", resumes["cold"])}

The .bin is a hole in the file system: no disk was read for tokens, which in a real run is 1,024 places of it.

The index, made once (`retrieva data index`, one core): {index["count_seconds"]:.0f} s to count the tokens, {index["order_seconds"]:.0f} s for the order of an epoch.
Its file has {index["order_megabytes"]:.0f} MB, and every further epoch takes as much time and space again. Largest resident memory
{index["memory"]:,.0f} MB. Of that {index["own"]:,.0f} MB are the process's own, whatever the size of the corpus; the rest are pages of the
corpus's .idx, 4 bytes a document, which all processes of a machine share and the system may drop at any time.
"""


def resume_row(state: str, seconds: dict[str, float]) -> str:
    """Return a row of the table of resuming."""
    return (
        f"| {state} | {seconds['open'] + seconds['step']:.2f} s ({seconds['cpu']:.2f} s)"
        f" | {seconds['open']:.2f} s ({seconds['tokenizer']:.2f} s) | {seconds['step']:.2f} s | {seconds['next']:.2f} s |"
    )


if __name__ == "__main__":
    main()
