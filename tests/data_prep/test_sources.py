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
from data_prep.sources.records import Malformed

TEXTS = ["一行目\n二行目\t終わり", "second\u2028still second", "셋째 \U0001f427", " "]


def read(name: str, path: Path, /, **options: Any) -> tuple[list[str], Counter[str]]:
    records = list(open_source(name, options).read(path))
    dropped = Counter(record.reason for record in records if isinstance(record, Dropped))
    return [record.text for record in records if isinstance(record, Document)], dropped


def problems(name: str, path: Path, /, **options: Any) -> list[str]:
    records = open_source(name, options).read(path)
    return [str(record) for record in records if isinstance(record, Malformed)]


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
@pytest.mark.parametrize(("source", "options"), [("jsonl", {}), ("text", {"document": "line"})])
def test_compressed_data_cut_short_anywhere_give_what_is_there_and_say_where_they_end(
    tmp_path: Path, suffix: str, source: str, options: dict[str, Any]
) -> None:
    texts = [f"{number} text" for number in range(30_000)]
    data = COMPRESSIONS[suffix](lines("text", texts))
    path = tmp_path / f"a{suffix}"
    for cut in (len(data) // 3, len(data) - 9, len(data) - 1):
        path.write_bytes(data[:cut])
        (problem,) = problems(source, path, **options)
        kept = read(source, path, **options)[0]
        assert problem.startswith(f"{path}: line {len(kept) + 1:,}: ")
        assert "cut short" in problem
        if source == "jsonl":
            assert kept == texts[: len(kept)]
    assert len(kept) > 20_000


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_damaged_compressed_data_are_told_and_end_the_file(tmp_path: Path, suffix: str) -> None:
    data = bytearray(COMPRESSIONS[suffix](lines("text", [f"{number} text" for number in range(3000)])))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / f"a{suffix}").write_bytes(data)
    assert f"a{suffix}: line " in problems("text", tmp_path / f"a{suffix}", document="line")[-1]


@pytest.mark.parametrize("document", ["file", "line", "paragraph"])
def test_a_file_named_as_compressed_that_is_not_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "a.gz").write_bytes(b"text\n")
    with pytest.raises(DataPrepError, match=r"a\.gz: not gz data"):
        read("text", tmp_path / "a.gz", document=document)


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
def test_rows_without_a_text_are_told_one_by_one(tmp_path: Path, table: pyarrow.Table, message: str) -> None:
    parquet.write_table(table, tmp_path / "a.parquet")
    assert message in problems("parquet", tmp_path / "a.parquet")[0]


def test_a_table_without_the_column_counts_for_all_its_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"txt": ["a"] * 7}), tmp_path / "a.parquet")
    (problem,) = open_source("parquet", {}).read(tmp_path / "a.parquet")
    assert isinstance(problem, Malformed)
    assert (problem.reason, problem.records) == ("missing_column", 7)


@pytest.mark.parametrize("cut", [0, 3, 200, -1])
def test_a_parquet_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    parquet.write_table(_table(["a" * 100] * 50), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:cut])
    with pytest.raises(DataPrepError, match=r"a\.parquet: not a readable parquet file"):
        read("parquet", tmp_path / "a.parquet")


def test_damage_inside_a_parquet_file_counts_for_the_rows_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(_table([f"{number} text" for number in range(5000)]), path, compression="zstd")
    data = bytearray(path.read_bytes())
    for position in range(100, len(data) // 2, 50):
        data[position] ^= 0xFF
    path.write_bytes(data)
    *kept, problem = open_source("parquet", {}).read(path)
    assert isinstance(problem, Malformed)
    assert problem.reason == "damaged"
    assert len(kept) + problem.records == 5000


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


def test_a_filter_without_its_column_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x", "max_line_length": null}\n')
    assert read("the_stack", tmp_path / "a.jsonl")[0] == ["x"]
    assert "line 1: no 'lang'" in problems("the_stack", tmp_path / "a.jsonl", languages=["Python"])[0]
    assert (
        "record 1: 'max_line_length' is None, not a number"
        in problems("the_stack", tmp_path / "a.jsonl", max_line_length=9)[0]
    )


def test_the_licences_of_the_stack_are_labels(tmp_path: Path) -> None:
    rows = [{"content": "a", "max_stars_repo_licenses": ["MIT", "Apache-2.0"]}, {"content": "b"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    labels = [record.labels for record in open_source("the_stack", {}).read(tmp_path / "a.parquet")]  # type: ignore[union-attr]
    assert labels == [(("licence", "MIT"), ("licence", "Apache-2.0")), ()]


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


def test_text_that_is_not_utf_8_is_told_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一\n二\n".encode() + "三\n".encode("shift_jis"))
    (problem,) = problems("text", tmp_path / "a.txt")
    assert "a.txt: line 3: byte 1 (0x8e) is not UTF-8" in problem
    assert read("text", tmp_path / "a.txt") == ([], {})
    assert read("text", tmp_path / "a.txt", document="line")[0] == ["一", "二"]


def _numbered(path: Path, count: int) -> list[str]:
    texts = [f"{number} " + "あ" * (number * 7919 % 400) for number in range(count)]
    path.write_bytes(lines("text", texts))
    return texts


def _by_ranges(path: Path, target: int) -> list[Any]:
    source = open_source("jsonl", {})
    found = []
    for part in source.ranges(path, target):
        for block in source.blocks(path, part):
            assert not isinstance(block, Malformed)
            found += source.records(path, block)
    return found


@pytest.mark.parametrize("target", [1, 97, 5000, 300_000, 1 << 40])
def test_a_plain_file_read_by_ranges_is_the_file(tmp_path: Path, target: int) -> None:
    texts = _numbered(tmp_path / "a.jsonl", 600 if target < 5000 else 3000)
    assert [record.text for record in _by_ranges(tmp_path / "a.jsonl", max(target, 40))] == texts


def test_a_parquet_file_read_by_ranges_is_the_file(tmp_path: Path) -> None:
    texts = [f"{number} text" for number in range(1000)]
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=70)
    source = open_source("parquet", {})
    parts = source.ranges(tmp_path / "a.parquet", (tmp_path / "a.parquet").stat().st_size // 6)
    assert len(parts) > 3
    blocks = [(part, block) for part in parts for block in source.blocks(tmp_path / "a.parquet", part)]
    records = [
        record
        for _, block in blocks
        if not isinstance(block, Malformed)
        for record in source.records(Path("a"), block)
    ]
    assert [record.text for record in records if isinstance(record, Document)] == texts
    assert [record.record for record in records] == list(range(1, 1001))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_reading_goes_on_behind_any_block(tmp_path: Path, name: str) -> None:
    texts = [f"{number} " + "い" * 3000 for number in range(1200)]
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=500)
    else:
        path.write_bytes(COMPRESSIONS[name.removeprefix("a.jsonl")](lines("text", texts)))
    source = open_source("jsonl", {})
    (part,) = source.ranges(path, 1 << 40)
    blocks = list(source.blocks(path, part))
    assert len(blocks) > 3
    for number, block in enumerate(blocks):
        assert not isinstance(block, Malformed)
        rest = [one for one in source.blocks(path, part, block.end) if not isinstance(one, Malformed)]
        assert [one.start for one in rest] == [one.start for one in blocks[number + 1 :]]  # type: ignore[union-attr]
        assert [record for one in rest for record in source.records(path, one)] == [
            record
            for one in blocks[number + 1 :]
            for record in source.records(path, one)  # type: ignore[arg-type]
        ]


def test_lines_of_a_range_have_their_numbers_in_the_file(tmp_path: Path) -> None:
    data = b"".join(b'{"text": "%d"}\n' % number if number % 10 else b"{\n" for number in range(1, 500))
    (tmp_path / "a.jsonl").write_bytes(data)
    wrong = [
        record.record for record in _by_ranges(tmp_path / "a.jsonl", 700) if isinstance(record, Malformed)
    ]
    assert wrong == list(range(10, 500, 10))


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
