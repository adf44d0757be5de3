"""How fast `retrieva data build` is, against sentencepiece alone in the same run, and what memory it takes.

    python benchmarks/data_build.py --source /data/llm-jp-cc --tokenizer llm-jp-tokenizer-100k.ver3.0b1.model

The Japanese jsonl.gz files of --source are repeated to --megabytes of text, in --files files. Printed, in
this order: MB/s (UTF-8 of the texts) of sentencepiece alone on one core, of the build on --workers CPUs and
what share of (workers x sentencepiece alone) that is; the wall time of a build of one document; the largest
memory of a process on those files, on one file of 1 GB (--large) and on one document of 50 MB (--large).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import sentencepiece


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of *.jsonl.gz with a `text`")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=220)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--large", action="store_true", help="also a file of 1 GB and a document of 50 MB")
    options = parser.parse_args()
    lines = [
        line
        for path in sorted(options.source.glob("*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    texts = [json.loads(line)["text"] for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), texts, options)


def _run(folder: Path, texts: list[str], options: argparse.Namespace) -> None:
    size = sum(len(text.encode()) for text in texts)
    repeats = max(1, round(options.megabytes * 1e6 / size / options.files))
    for number in range(options.files):
        _write(folder / f"part-{number}.jsonl.gz", texts, repeats)
    total = size * repeats * options.files
    before = _alone(texts, size, options.tokenizer)
    seconds, memory = _build(folder, "part-*.jsonl.gz", options)
    after = _alone(texts, size, options.tokenizer)
    alone = (before + after) / 2
    print(f"sentencepiece alone, one core: {before:.1f} and {after:.1f} MB/s (before and after the build)")
    print(f"retrieva data build, {options.workers} workers, {options.files} files, {total / 1e6:.0f} MB:")
    print(f"  {total / 1e6 / seconds:.1f} MB/s with start and merge, {seconds:.1f} s")
    print(f"  {total / 1e6 / seconds / (alone * options.workers):.0%} of workers x sentencepiece alone")
    print(f"  largest process {memory:.0f} MB")
    _write(folder / "one.jsonl.gz", texts[:1], 1)
    seconds, _ = _build(folder, "one.jsonl.gz", options)
    print(f"one document: {seconds:.2f} s from start to end")
    if options.large:
        _write(folder / "large.jsonl.gz", texts, round(1e9 / size))
        seconds, memory = _build(folder, "large.jsonl.gz", options)
        print(f"one file of 1 GB: {1e9 / 1e6 / seconds:.1f} MB/s, largest process {memory:.0f} MB")
        _write(folder / "document.jsonl.gz", ["".join(texts) * max(1, round(50e6 / size))], 1)
        seconds, memory = _build(folder, "document.jsonl.gz", options)
        print(f"one document of 50 MB: {seconds:.1f} s, largest process {memory:.0f} MB")


def _write(path: Path, texts: list[str], repeats: int) -> None:
    lines = "".join(
        json.dumps({"text": text, "meta": {}}, ensure_ascii=False) + "\n" for text in texts
    ).encode()
    with gzip.open(path, "wb", compresslevel=6) as stream:
        for _ in range(repeats):
            stream.write(lines)


def _alone(texts: list[str], size: int, tokenizer: Path) -> float:
    """MB/s of sentencepiece on texts in memory, one thread, ids as Python lists as most programs take them."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    start = time.perf_counter()
    for first in range(0, len(texts), 200):
        processor.Encode(texts[first : first + 200], out_type=int, num_threads=1)
    return size / 1e6 / (time.perf_counter() - start)


def _build(folder: Path, pattern: str, options: argparse.Namespace) -> tuple[float, float]:
    """(seconds, largest resident memory of one process in MB) of a build as a user starts it."""
    name = pattern.split(".")[0].rstrip("-*")
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        f"name: {name}\nsource: llm_jp_cc\nfiles: ['{folder}/{pattern}']\ntokenizer: {{model: '{options.tokenizer.resolve()}'}}\n"
    )
    command = [sys.executable, "-m", "retrieva_pretrain", "data", "build", str(recipe)]
    command += ["--output", str(folder / "out"), "--workers", str(options.workers)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak: dict[int, int] = {}
    watch = threading.Thread(target=_watch, args=(process.pid, peak))
    watch.start()
    if process.wait():
        raise SystemExit("the build failed")
    seconds = time.perf_counter() - start
    watch.join()
    return seconds, max(peak.values(), default=0) / 1e6


def _watch(pid: int, peak: dict[int, int]) -> None:
    try:
        parent = psutil.Process(pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            for one in [parent, *parent.children(recursive=True)]:
                try:
                    peak[one.pid] = max(peak.get(one.pid, 0), one.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.05)
    except psutil.Error:
        return


if __name__ == "__main__":
    main()
