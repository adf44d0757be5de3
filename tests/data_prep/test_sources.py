"""Each source reads its true format, whatever the file is compressed with, and says what it cannot read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from data_prep.errors import DataPrepError
from data_prep.sources import Document, Dropped, open_source

TEXTS = ["一行目\n二行目\t終わり", "second\u2028still second", "셋째 \U0001f427", " "]


def read(name: str, path: Path, /, **options: Any) -> tuple[list[str], Counter[str]]:
    records = list(open_source(name, options).read(path))
    dropped = Counter(record.reason for record in records if isinstance(record, Dropped))
    return [record.text for record in records if isinstance(record, Document)], dropped


def lines(column: str, texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, column: text}, ensure_ascii=False) + "\n" for text in texts).encode()


def _zstd_without_size(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".streamed.zst": _zstd_without_size,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("parts", [1, 3])
def test_json_lines_are_read_whatever_they_are_compressed_with(
    tmp_path: Path, suffix: str, parts: int
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](lines("text", TEXTS)) * parts)
    assert read("jsonl", path)[0] == TEXTS * parts


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_the_compression_is_told_by_the_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "renamed.jsonl"
    path.write_bytes(COMPRESSIONS[suffix](lines("text", TEXTS)))
    assert read("jsonl", path)[0] == TEXTS


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
@pytest.mark.parametrize("source", ["jsonl", "text"])
def test_compressed_data_cut_short_anywhere_are_refused(tmp_path: Path, suffix: str, source: str) -> None:
    data = COMPRESSIONS[suffix](lines("text", [f"{number} text" for number in range(3000)]))
    path = tmp_path / f"a{suffix}"
    for cut in (len(data) // 3, len(data) - 9, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DataPrepError, match=r"a\S*: .*cut short"):
            read(source, path)


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_damaged_compressed_data_are_refused(tmp_path: Path, suffix: str) -> None:
    data = bytearray(COMPRESSIONS[suffix](lines("text", [f"{number} text" for number in range(3000)])))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(DataPrepError, match=f"a{suffix}: "):
        read("text", tmp_path / f"a{suffix}")


def test_a_byte_order_mark_windows_line_ends_and_a_missing_last_one_are_no_text(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n\r\n{"text": "c"}'
    (tmp_path / "a.jsonl").write_bytes(data)
    assert read("jsonl", tmp_path / "a.jsonl") == (["a", "b", "c"], {"blank_line": 1})


@pytest.mark.parametrize(("source", "column"), [("llm_jp_cc", "text"), ("refinedweb", "content")])
def test_the_true_sources_know_their_column(tmp_path: Path, source: str, column: str) -> None:
    rows = {"url": ["u"] * 4, column: TEXTS, "image_urls": [[["a", "b"]]] * 4}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(column, TEXTS)))
    assert read(source, tmp_path / "a.parquet")[0] == TEXTS
    assert read(source, tmp_path / "a.jsonl.gz")[0] == TEXTS
    with pytest.raises(ValueError, match="has no such option; it takes no options"):
        open_source(source, {"column": "body"})


@pytest.mark.parametrize("type_name", ["string", "large_string"])
def test_a_column_of_parquet_is_read(tmp_path: Path, type_name: str) -> None:
    column = pyarrow.array(TEXTS * 200, type=getattr(pyarrow, type_name)())
    parquet.write_table(pyarrow.table({"body": column}), tmp_path / "a", compression="zstd")
    assert read("parquet", tmp_path / "a", column="body")[0] == TEXTS * 200


def _table(values: Any) -> pyarrow.Table:
    return pyarrow.table({"text": values, "title": ["t"] * len(values)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_table(["a", None]), "record 2: 'text' is null, not a text"),
        (_table([1, 2]), "record 1: 'text' is a number, not a text"),
        (_table([b"a"]), "record 1: 'text' is bytes, not a text"),
        (
            _table(["a"]).rename_columns(["texts", "title"]),
            "no 'text'; there is 'texts', 'title'. Did you mean",
        ),
        (
            _table(pyarrow.array([b"a", b"b\xff"]).view(pyarrow.string())),
            "row 2: a text that is not UTF-8",
        ),
    ],
)
def test_a_table_without_texts_is_refused_by_row(tmp_path: Path, table: pyarrow.Table, message: str) -> None:
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataPrepError, match=f"a.parquet: {message}"):
        read("parquet", tmp_path / "a.parquet")


@pytest.mark.parametrize("cut", [0, 3, 200, -1])
def test_a_parquet_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    parquet.write_table(_table(["a" * 100] * 50), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:cut])
    with pytest.raises(DataPrepError, match=r"a\.parquet: not a readable parquet file"):
        read("parquet", tmp_path / "a.parquet")


def test_damage_inside_a_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(_table([f"{number} text" for number in range(5000)]), path, compression="zstd")
    data = bytearray(path.read_bytes())
    for position in range(100, len(data) // 2, 50):
        data[position] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataPrepError, match=r"a\.parquet: "):
        read("parquet", path)


STACK = [
    # lang, ext, max_line_length, avg_line_length, alphanum_fraction, content
    ("Python", "py", 80, 30.0, 0.7, "good"),
    ("Jupyter Notebook", "ipynb", 80, 30.0, 0.7, "notebook"),
    ("Python", "pyx", 80, 30.0, 0.7, "cython"),
    ("Python", "py", 1000, 100.0, 0.25, "at every limit"),
    ("Python", "py", 1001, 30.0, 0.7, "a long line"),
    ("Python", "py", 80, 100.5, 0.7, "long lines"),
    ("Python", "py", 80, 30.0, 0.24, "signs"),
    ("C++", "cpp", 5000, 900.0, 0.0, "everything"),
]
STACK_COLUMNS = ("lang", "ext", "max_line_length", "avg_line_length", "alphanum_fraction", "content")


@pytest.fixture(params=["parquet", "jsonl"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Rows of The Stack, one for each filter."""
    rows = [dict(zip(STACK_COLUMNS, row, strict=True)) for row in STACK]
    path = tmp_path / f"stack.{request.param}"
    if request.param == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_stack_keeps_everything_unless_asked(stack: Path) -> None:
    assert read("the_stack", stack) == ([row[-1] for row in STACK], {})


@pytest.mark.parametrize(
    ("options", "left_out", "reason"),
    [
        ({"languages": ["python"]}, ["notebook", "everything"], "language"),
        ({"languages": ["C++", "Jupyter Notebook", "PYTHON"]}, [], "language"),
        ({"extensions": [".py", "cpp"]}, ["notebook", "cython"], "extension"),
        ({"max_line_length": 1000}, ["a long line", "everything"], "max_line_length"),
        ({"avg_line_length": 100.0}, ["long lines", "everything"], "avg_line_length"),
        ({"alphanum_fraction": 0.25}, ["signs", "everything"], "alphanum_fraction"),
    ],
)
def test_each_filter_of_the_stack_is_counted(
    stack: Path, options: dict[str, Any], left_out: list[str], reason: str
) -> None:
    texts, dropped = read("the_stack", stack, **options)
    assert texts == [row[-1] for row in STACK if row[-1] not in left_out]
    assert dropped == ({reason: len(left_out)} if left_out else {})


def test_a_file_that_fails_several_filters_is_counted_once(stack: Path) -> None:
    texts, dropped = read(
        "the_stack",
        stack,
        languages=["Python", "C++"],
        extensions=["py", "cpp"],
        max_line_length=1000,
        avg_line_length=100,
        alphanum_fraction=0.25,
    )
    assert texts == ["good", "at every limit"]
    assert dropped == {
        **{"language": 1, "extension": 1, "max_line_length": 2},
        **{"avg_line_length": 1, "alphanum_fraction": 1},
    }


def test_a_filter_without_its_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x", "max_line_length": null}\n')
    assert read("the_stack", tmp_path / "a.jsonl")[0] == ["x"]
    with pytest.raises(DataPrepError, match="line 1: no 'lang'"):
        read("the_stack", tmp_path / "a.jsonl", languages=["Python"])
    with pytest.raises(DataPrepError, match="record 1: 'max_line_length' is None, not a number"):
        read("the_stack", tmp_path / "a.jsonl", max_line_length=9)


@pytest.mark.parametrize("options", [{"languages": []}, {"alphanum_fraction": 25.0}, {"max_line_length": 0}])
def test_an_impossible_filter_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: "):
        open_source("the_stack", options)


PLAIN = "\ufeff段落一\r\n続き\n \n\n段落二\n"


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ("file", ["段落一\n続き\n \n\n段落二\n"]),
        ("paragraph", ["段落一\n続き", "段落二"]),
        ("line", ["段落一", "続き", "段落二"]),
    ],
)
def test_plain_text_is_cut_into_what_a_document_is(tmp_path: Path, document: str, texts: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(PLAIN.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(PLAIN.encode()))
    assert read("text", tmp_path / "a.txt", document=document)[0] == texts
    assert read("text", tmp_path / "a.txt.gz", document=document)[0] == texts


def test_text_that_is_not_utf_8_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一\n二\n".encode() + "三\n".encode("shift_jis"))
    with pytest.raises(DataPrepError, match=r"a\.txt: line 3: byte 1 \(0x8e\) is not UTF-8"):
        read("text", tmp_path / "a.txt")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of the test's own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("form", ["jsonl", "parquet", "save_to_disk", "dataset_dict"])
def test_a_local_dataset_is_streamed(tmp_path: Path, form: str) -> None:
    import datasets

    folder = tmp_path / "dataset"
    folder.mkdir()
    data = datasets.Dataset.from_dict({"body": TEXTS})
    if form == "jsonl":
        (folder / "train.jsonl").write_bytes(lines("body", TEXTS))
    elif form == "parquet":
        data.to_parquet(folder / "train.parquet")
    elif form == "save_to_disk":
        data.save_to_disk(folder)
    else:
        datasets.DatasetDict({"train": data}).save_to_disk(folder)
    assert read("hf_dataset", Path("hf_dataset"), path=str(folder), column="body")[0] == TEXTS
    with pytest.raises(DataPrepError, match=r"no 'text'; there is .*'body'"):
        read("hf_dataset", Path("hf_dataset"), path=str(folder))


@pytest.mark.usefixtures("offline")
def test_a_dataset_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataPrepError, match=r"options\.path: the dataset 'absent/here' .* cannot be read"
    ) as refusal:
        read("hf_dataset", Path("hf_dataset"), path="absent/here")
    assert "\n" not in str(refusal.value)
    (tmp_path / "train.jsonl").write_bytes(lines("text", TEXTS))
    with pytest.raises(DataPrepError, match="split 'test'"):
        read("hf_dataset", Path("hf_dataset"), path=str(tmp_path), split="test")
