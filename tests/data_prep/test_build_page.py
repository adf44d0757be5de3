"""The page of the corpora in a folder says what their manifests say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.build import build
from data_prep.build_page import length_histogram, write_build_page


def test_the_page_shows_every_corpus_and_is_the_same_each_time(
    tmp_path: Path, configure: Any, write_jsonl: Any
) -> None:
    for name, texts in (("one", ["abc", "", "あいう <b>"]), ("two", ["えお"] * 30)):
        file = write_jsonl(tmp_path / f"{name}<&>.jsonl", texts)
        build(configure(file, name=name), tmp_path / "out")
    html, png = write_build_page(tmp_path / "out")
    page = html.read_text()
    for text in ("one", "two", "empty 1", "one&lt;&amp;&gt;.jsonl", "data:image/png;base64,"):
        assert text in page
    assert "<&>" not in page
    assert not re.search(r"(?:src|href)=.?https?:", page)
    assert png.read_bytes().startswith(b"\x89PNG")
    first = html.read_bytes()
    write_build_page(tmp_path / "out")
    assert len(html.read_bytes()) == len(first)


def test_a_folder_without_corpora_gets_no_page(tmp_path: Path) -> None:
    assert write_build_page(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_lengths_are_counted_by_powers_of_two() -> None:
    lengths = np.array([3, 4, 5, 8, 9, 100])
    assert length_histogram(lengths) == [(4, 2), (8, 2), (16, 1), (32, 0), (64, 0), (128, 1)]
    assert length_histogram(lengths[:0]) == []
