"""Raw sample corpora in the five true file formats, for the demo and for trying things out.

Japanese, Chinese and Korean come from the texts beside this file. English prose and code come from the
Python that runs this: real text that needs no shipping. The same Python gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from data_prep.samples.dump import write_dump
from data_prep.samples.parquet import write_refinedweb, write_the_stack
from data_prep.samples.stdlib import prose, python_files
from data_prep.whole_files import write_whole

TEXTS = Path(__file__).resolve().parent
_SHARDS = ("CC-MAIN-2017-04.jsonl.gz", "CC-MAIN-2023-14.jsonl.gz")


def write_sample_corpora(output_dir: Path) -> dict[str, Path]:
    """Write the raw files of the five corpora; {corpus: its folder}.

    - `ja_cc/CC-MAIN-*.jsonl.gz`
    - `refinedweb/*.parquet`
    - `zh_wiki/` and `ko_wiki/`: `*-pages-articles-multistream.xml.bz2` and its index
    - `the_stack/data/python/*.parquet`
    """
    writers: dict[str, Callable[[Path], None]] = {
        "ja_cc": _write_llm_jp_cc,
        "refinedweb": lambda folder: write_refinedweb(folder, prose()),
        "zh_wiki": lambda folder: write_dump(folder, "zh", TEXTS / "zh"),
        "ko_wiki": lambda folder: write_dump(folder, "ko", TEXTS / "ko"),
        "the_stack": lambda folder: write_the_stack(folder, python_files()),
    }
    folders = {}
    for name, write in writers.items():
        folders[name] = Path(output_dir) / name
        folders[name].mkdir(parents=True, exist_ok=True)
        write(folders[name])
    return folders


def _write_llm_jp_cc(folder: Path) -> None:
    """One document a text file, dealt out to the shards in turn."""
    texts = sorted((TEXTS / "ja").glob("*.txt"))
    for shard, name in enumerate(_SHARDS):
        lines = []
        for number in range(shard, len(texts), len(_SHARDS)):
            path = texts[number]
            meta = {"docId": f"sample-{number:05d}", "url": f"https://www.example.jp/{path.stem}.html"}
            record = {"text": path.read_text(encoding="utf-8").strip(), "meta": meta}
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        # No time stamp: the bytes are those of the texts alone.
        write_whole(folder / name, gzip.compress("".join(lines).encode(), mtime=0))
