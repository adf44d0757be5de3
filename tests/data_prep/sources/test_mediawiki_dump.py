"""Dumps are read in ranges and blocks: the same pages however they are cut, and around what is damaged."""

from __future__ import annotations

import bz2
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.samples.build import write_sample_corpora
from data_prep.sources import Document, Record, Source, open_source
from data_prep.sources.records import Block, Malformed, Range

HEAD = '<mediawiki xml:lang="de"><siteinfo><namespaces><namespace key="6">Datei</namespace></namespaces></siteinfo>\n'
TAIL = "</mediawiki>\n"


def page(number: int, size: int = 20) -> str:
    # Text that does not compress: streams of several kilobytes each.
    words = " ".join(hashlib.sha256(f"{number} {word}".encode()).hexdigest() for word in range(size))
    return f"  <page>\n    <title>Seite {number}</title><ns>0</ns><revision><text>{words}</text></revision>\n  </page>\n"


PAGES = [page(number) for number in range(200)]
WHOLE = "".join([HEAD, *PAGES, TAIL]).encode()


def streams(pages: list[str], a_stream: int) -> list[bytes]:
    groups = ["".join(pages[start : start + a_stream]) for start in range(0, len(pages), a_stream)]
    return [bz2.compress(part.encode()) for part in (HEAD, *groups, TAIL)]


def cut_anywhere(size: int) -> bytes:
    """As a tool leaves it that compresses in parallel: streams end inside of pages; here some begin with one."""
    first = WHOLE.index(b"  <page>")
    body = WHOLE[first:]
    starts = sorted(
        {*range(0, len(body), size), body.index(b"  <page>", 50_000), body.index(b"  <page>", 120_000)}
    )
    parts = [body[start:end] for start, end in zip(starts, [*starts[1:], len(body)], strict=True)]
    return b"".join(bz2.compress(part) for part in (WHOLE[:first], *parts))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr("data_prep.sources.mediawiki_streams.BLOCK_BYTES", 20_000)
    monkeypatch.setattr("data_prep.sources.lines.BLOCK_BYTES", 20_000)
    return open_source("wikipedia", {})


def by_ranges(source: Source, path: Path, target: int) -> tuple[list[Record], list[Range]]:
    found: list[Record] = []
    ranges = source.ranges(path, target)
    for part in ranges:
        for block in source.blocks(path, part):
            found += [block] if isinstance(block, Malformed) else source.records(path, block)
    return found, ranges


def numbers(records: list[Record]) -> list[int]:
    return [int(record.text.split()[1]) for record in records if isinstance(record, Document)]


def problems(records: list[Record]) -> list[str]:
    return [record.reason for record in records if isinstance(record, Malformed)]


KINDS: dict[str, Callable[[], bytes]] = {
    "streams of 2": lambda: b"".join(streams(PAGES, 2)),
    "streams of 100": lambda: b"".join(streams(PAGES, 100)),
    "no stream for the end": lambda: b"".join(
        [*streams(PAGES, 7)[:-2], bz2.compress(("".join(PAGES[196:]) + TAIL).encode())]
    ),
    "cut anywhere": lambda: cut_anywhere(9_000),
    "one stream": lambda: bz2.compress(WHOLE, 1),
    "gzip": lambda: gzip.compress(WHOLE),
    "plain": lambda: WHOLE,
}
ENTERED = ("streams of 2", "streams of 100", "no stream for the end", "cut anywhere", "plain")


@pytest.mark.parametrize("target", [1_000, 10_000, 1 << 40])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ranges_of_a_dump_hold_its_pages_each_once(
    tmp_path: Path, source: Source, kind: str, target: int
) -> None:
    (tmp_path / "wiki").write_bytes(KINDS[kind]())
    records, ranges = by_ranges(source, tmp_path / "wiki", target)
    assert numbers(records) == list(range(200))
    assert problems(records) == []
    assert (len(ranges) > 1) == (kind in ENTERED and target < 1 << 40)


@pytest.mark.parametrize("damage", ["none", "damaged", "truncated", "truncated between pages"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_goes_on_behind_any_block_with_the_same_blocks(
    tmp_path: Path, source: Source, kind: str, damage: str
) -> None:
    path = tmp_path / "wiki"
    data = bytearray(KINDS[kind]())
    if damage == "damaged":
        data[len(data) // 2 : len(data) // 2 + 4] = b"\0\0\0\0"
    elif damage == "truncated":
        del data[len(data) * 2 // 3 :]
    elif damage == "truncated between pages" and kind == "plain":
        del data[data.index(b"  <page>", 100_000) :]
    elif damage == "truncated between pages" and kind.startswith("streams"):
        del data[len(data) - len(bz2.compress(TAIL.encode())) :]
    path.write_bytes(data)
    for part in source.ranges(path, 60_000):
        whole = list(source.blocks(path, part))
        blocks = [block for block in whole if isinstance(block, Block)]
        assert blocks[0].start.records == 0
        for block in blocks[:-1]:
            assert list(source.blocks(path, part, block.end)) == whole[whole.index(block) + 1 :]
        for block in source.blocks(path, part, blocks[-1].end):
            # What is wrong behind the last block may be told again; nothing is read twice.
            assert isinstance(block, Malformed)
            assert block in whole


def test_a_whole_dump_is_not_called_cut_short_when_its_last_block_was_read(
    tmp_path: Path, source: Source
) -> None:
    for kind, data in KINDS.items():
        path = tmp_path / kind
        path.write_bytes(data())
        *_, last = source.blocks(path, Range())
        assert isinstance(last, Block)
        assert list(source.blocks(path, Range(), last.end)) == []


@pytest.mark.parametrize("index", [None, "right", "stale", "garbage"])
def test_the_index_beside_a_dump_is_not_needed(tmp_path: Path, source: Source, index: str | None) -> None:
    path = tmp_path / "dewiki-20240120-pages-articles-multistream.xml.bz2"
    parts = streams(PAGES, 10)
    path.write_bytes(b"".join(parts))
    if index:
        shift = 0 if index == "right" else 17
        lines = [f"{sum(map(len, parts[: 1 + n // 10])) + shift}:{n}:Seite {n}\n" for n in range(200)]
        content = bz2.compress("".join(lines).encode()) if index != "garbage" else b"no index"
        path.with_name(path.name.replace(".xml.bz2", "-index.txt.bz2")).write_bytes(content)
    records, ranges = by_ranges(source, path, 20_000)
    assert numbers(records) == list(range(200))
    offsets = {sum(map(len, parts[:number])) for number in range(len(parts))}
    assert {part.start for part in ranges} < offsets
    assert len(ranges) > 5


@pytest.mark.parametrize("target", [5_000, 1 << 40])
@pytest.mark.parametrize("which", [1, 5, 20])
def test_a_damaged_stream_costs_its_own_pages_alone(
    tmp_path: Path, source: Source, which: int, target: int
) -> None:
    parts = streams(PAGES, 10)
    damaged = bytearray(parts[which])
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "wiki").write_bytes(b"".join([*parts[:which], damaged, *parts[which + 1 :]]))
    records, _ = by_ranges(source, tmp_path / "wiki", target)
    lost = range(which * 10 - 10, which * 10)
    assert numbers(records) == [number for number in range(200) if number not in lost]
    assert problems(records) == ["damaged"]
    (problem,) = (record for record in records if isinstance(record, Malformed))
    assert f"byte {sum(map(len, parts[:which])):,}: damaged compressed data" in str(problem)


def test_of_a_stream_that_is_cut_short_the_whole_pages_are_read(tmp_path: Path, source: Source) -> None:
    # Blocks of 100 kB inside the streams, each of which can be decompressed without the next.
    body = [page(number, 200) for number in range(40)]
    parts = [bz2.compress(part.encode(), 1) for part in (HEAD, "".join(body[:20]), "".join(body[20:]), TAIL)]
    for data in (
        b"".join(parts[:2]) + parts[2][: len(parts[2]) * 2 // 3],
        bz2.compress("".join([HEAD, *body]).encode(), 1)[:-90_000],
    ):
        (tmp_path / "wiki").write_bytes(data)
        records, _ = by_ranges(source, tmp_path / "wiki", 1 << 40)
        kept = numbers(records)
        assert kept == list(range(len(kept)))
        assert 20 < len(kept) < 40
        assert set(problems(records)) == {"truncated"}


def test_a_page_of_malformed_xml_is_told_by_its_title_and_the_others_are_read(
    tmp_path: Path, source: Source
) -> None:
    data = WHOLE.replace(b"<title>Seite 7</title>", b"<title>Seite 7</title><b>").replace(
        b"<title>Seite 9</title><ns>0<", b"<title>Seite 9</title><ns>zero<"
    )
    (tmp_path / "wiki").write_bytes(data)
    records, _ = by_ranges(source, tmp_path / "wiki", 1 << 40)
    assert numbers(records) == [number for number in range(200) if number not in (7, 9)]
    found = [str(record) for record in records if isinstance(record, Malformed)]
    assert [text.split(": ")[1] for text in found] == ["page 8", "page 10"]
    assert all(f"Seite {number}" in text for number, text in zip((7, 9), found, strict=True))


def test_the_sample_dumps_are_the_same_in_ranges(tmp_path: Path, source: Source) -> None:
    corpora = write_sample_corpora(tmp_path)
    for language in ("zh", "ko"):
        (path,) = corpora[f"{language}_wiki"].glob("*-multistream.xml.bz2")
        records, ranges = by_ranges(source, path, 3_000)
        assert len(ranges) > 1
        whole = list(source.read(path))
        assert [type(one) for one in records] == [type(one) for one in whole]
        assert [one.text for one in records if isinstance(one, Document)] == [
            one.text for one in whole if isinstance(one, Document)
        ]
        assert {one.reason for one in whole if not isinstance(one, Document)} == {
            "redirect",
            "namespace",
            "empty",
        }
