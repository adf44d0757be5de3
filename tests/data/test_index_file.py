"""Index files: whole or absent, made once, never trusted when they are not what they should be."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from data_prep.whole_files import Digest, PartialFile
from retrieva_pretrain.data import index_file as index_file_module
from retrieva_pretrain.data.index_file import IndexFile
from retrieva_pretrain.errors import CorpusError
from tests.waiting import wait_until

COUNT = 300_000
PIECES = 60
MADE_OF = {"kind": "test", "corpus": "日本語", "seed": 1}
Pieces = Callable[[], Iterator[np.ndarray]]


def numbers() -> np.ndarray:
    return np.arange(COUNT, dtype=np.int64) ** 2


def pieces(*, seconds: float = 0.0, log: Path | None = None) -> Pieces:
    """Makes the numbers in pieces, in so many seconds, and notes in a file that it was asked to."""

    def make() -> Iterator[np.ndarray]:
        if log is not None:
            with log.open("a") as stream:
                stream.write(f"{os.getpid()}\n")
        for piece in np.array_split(numbers(), PIECES):
            time.sleep(seconds / PIECES)
            yield piece

    return make


def index_file(folder: Path) -> IndexFile:
    return IndexFile(folder / "numbers.index", MADE_OF, COUNT)


def in_a_process(work: Callable[[], object]) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


def test_numbers_are_made_once_and_read_ever_after(tmp_path: Path) -> None:
    file = index_file(tmp_path / "a" / "new" / "folder")
    assert file.read() is None
    values, made = file.ensure(pieces())
    assert made
    assert np.array_equal(values, numbers())
    assert not values.flags.writeable
    assert file.path.stat().st_size == file.size
    assert [path.name for path in file.path.parent.iterdir()] == ["numbers.index"]

    def never() -> Iterator[np.ndarray]:
        raise AssertionError("made again")

    again, made = index_file(file.path.parent).ensure(never)
    assert not made
    assert np.array_equal(again, numbers())


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:-1], id="a byte short"),
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: content + b"\0", id="a byte long"),
        pytest.param(lambda content: bytes(len(content)), id="zeros"),
        pytest.param(lambda content: content[:8192] + bytes(4096) + content[12288:], id="a page of zeros"),
        *(
            pytest.param(lambda content, place=place: flipped(content, place), id=f"a bit at {place}")
            for place in (0, 30, 4095, 4096, 100_000, -17, -16, -2)
        ),
    ],
)
def test_a_damaged_file_is_not_trusted_and_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    file = index_file(tmp_path)
    file.ensure(pieces())
    content = file.path.read_bytes()
    file.path.write_bytes(damage(content))
    assert file.read() is None
    values, made = file.ensure(pieces())
    assert made
    assert np.array_equal(values, numbers())
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("other", [{"seed": 2}, {"corpus": "日本"}, {"kind": "test", "more": 0.1}])
def test_a_whole_file_of_something_else_is_not_trusted(tmp_path: Path, other: dict[str, object]) -> None:
    file = index_file(tmp_path)
    foreign = IndexFile(tmp_path / "other.index", {**MADE_OF, **other}, COUNT)
    foreign.ensure(pieces())
    foreign.path.rename(file.path)
    assert foreign.size == file.size
    assert file.read() is None
    assert file.ensure(pieces())[1]
    assert file.read() is not None


def test_killed_at_any_moment_there_is_a_whole_file_or_none_and_the_next_makes_it(tmp_path: Path) -> None:
    draw = random.Random(1)
    outcomes: set[bool] = set()
    # Until kills came both too early and too late, whatever a start takes on this machine.
    longest = 0.12
    for number in range(400):
        if number >= 40 and len(outcomes) == 2:
            break
        longest *= 1.02 if True not in outcomes else 1.0
        file = index_file(tmp_path / str(number))
        maker = in_a_process(lambda file=file: file.ensure(pieces(seconds=0.05)))
        wait_until("the folder", file.path.parent.exists, look_every=0.005)
        time.sleep(draw.uniform(0, longest))
        maker.kill()
        maker.join()
        there = file.path.exists()
        outcomes.add(there)
        if there:
            assert np.array_equal(file.read(), numbers())
        values, made = file.ensure(pieces())
        assert made is not there
        assert np.array_equal(values, numbers())
        assert [path.name for path in file.path.parent.iterdir()] == ["numbers.index"]
    assert outcomes == {True, False}, "the kills were all too early or all too late"


def test_of_many_processes_one_makes_the_file_and_all_read_it(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def work() -> None:
        values, _ = index_file(tmp_path).ensure(pieces(seconds=0.3, log=log))
        assert np.array_equal(values, numbers())

    processes = [in_a_process(work) for _ in range(6)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(log.read_text().splitlines()) == 1


def test_what_another_process_made_between_looking_and_locking_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"

    def locked_late(path: Path, digest: Digest) -> PartialFile:
        monkeypatch.undo()
        index_file(tmp_path).ensure(pieces(log=log))
        return PartialFile(path, digest)

    monkeypatch.setattr(index_file_module, "PartialFile", locked_late)
    values, made = index_file(tmp_path).ensure(pieces(log=log))
    assert not made
    assert np.array_equal(values, numbers())
    assert len(log.read_text().splitlines()) == 1


def test_a_process_that_waits_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    file = index_file(tmp_path)
    waited = tmp_path / "waited"
    maker = in_a_process(lambda: file.ensure(pieces(seconds=600)))
    wait_until("the file", file.path.with_name(file.path.name + ".partial").exists, look_every=0.005)
    time.sleep(0.1)
    other = in_a_process(lambda: file.ensure(pieces(), waited.touch))
    wait_until("a second maker", waited.exists)
    maker.kill()
    other.join(60)
    assert other.exitcode == 0
    assert np.array_equal(file.read(), numbers())


@pytest.mark.parametrize("folder", ["/proc", "/proc/index", "file/index"])
def test_a_folder_that_cannot_be_written_to_is_refused_naming_the_field(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"data\.index_dir: .*numbers\.index.* folder .*data\.index_dir"):
        index_file(tmp_path / folder).ensure(pieces())


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Iterator[np.ndarray]:
        yield numbers()[:1000]
        raise CorpusError("the corpus is damaged")

    file = index_file(tmp_path)
    with pytest.raises(CorpusError, match="the corpus is damaged"):
        file.ensure(fail)
    assert list(tmp_path.iterdir()) == []
