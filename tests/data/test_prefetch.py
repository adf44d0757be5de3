"""Micro-batches made ahead by a thread: the same to the bit, errors where they are read, and an end."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.data.batches import Samples, TrainingSamples
from retrieva_pretrain.data.corpora import Corpora
from retrieva_pretrain.data.order import Integers
from retrieva_pretrain.data.prefetch import Prefetch
from retrieva_pretrain.errors import CorpusError
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

SIZES = [2, 4]
MicroBatchSamples = tuple[Integers, Samples]


@pytest.fixture
def samples(tmp_path: Path, make_corpus: Callable[..., Path], small_tokenizer: Tokenizer) -> TrainingSamples:
    """Samples of two stages, 3 and 5 steps of 8."""
    draw = random.Random(0)
    ordinary = [i for i in range(small_tokenizer.vocab_size) if i not in small_tokenizer.special_ids]
    make_corpus(tmp_path, "c", [draw.choices(ordinary, k=draw.randint(5, 60)) for _ in range(80)])
    recipe = load_yaml(
        Recipe,
        Path(__file__).parents[1] / "recipe" / "small.yaml",
        [
            f"data={{blend: [{{path: {tmp_path}/c}}]}}",
            f"tokenizer.model={small_tokenizer.path}",
            "global_batch_size=8",
            "curriculum=[{seq_length: 16, train_iters: 3, max_micro_batch_size: 2},"
            " {seq_length: 32, train_iters: 5, max_micro_batch_size: 4}]",
        ],
    )
    return TrainingSamples(recipe, Corpora.open(recipe))


def prefetch_of(
    samples: TrainingSamples, rank: int, size: int, micro_batch_sizes: list[int], ahead: int
) -> Prefetch[MicroBatchSamples]:
    curriculum = samples.positions.curriculum

    def make(step: int) -> Iterator[MicroBatchSamples]:
        return samples.micro_batches(step, rank, size, micro_batch_sizes[curriculum.at(step).index])

    return Prefetch(make, curriculum.total_steps, ahead)


def contents(batches: Iterator[MicroBatchSamples]) -> list[Any]:
    return [
        (numbers.tolist(), {name: (v.dtype, v.tobytes()) for name, v in rows.items()})
        for numbers, rows in batches
    ]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("ahead", [1, 3, 1000])
def test_batches_made_ahead_are_the_same_to_the_bit_over_the_end_of_a_stage(
    samples: TrainingSamples, ahead: int
) -> None:
    in_turn = prefetch_of(samples, 0, 2, SIZES, 0)
    expected = [contents(in_turn.step(step)) for step in range(8)]
    assert [len(step) for step in expected] == [2, 2, 2, 1, 1, 1, 1, 1]
    prefetch = prefetch_of(samples, 0, 2, SIZES, ahead)
    assert [contents(prefetch.step(step)) for step in range(8)] == expected
    assert prefetch.waited > 0
    prefetch.close()
    # From the middle, going back, and after a step that was not read to its end.
    assert contents(prefetch.step(4)) == expected[4]
    assert contents(prefetch.step(1)) == expected[1]
    next(prefetch.step(2))
    assert contents(prefetch.step(3)) == expected[3]
    assert len(threads()) <= 1  # none, where it has made everything to the curriculum's end
    prefetch.close()
    assert not threads()


def test_a_reader_that_counts_and_never_asks_for_one_more_starts_no_second_thread(
    samples: TrainingSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda t: (started.append(t.name), begin(t)))
    prefetch = prefetch_of(samples, 0, 1, [2, 2], 4)
    for step in range(8):
        batches = prefetch.step(step)
        for _ in range(4):
            next(batches)
    prefetch.close()
    assert started == ["prefetch"]


def test_no_more_is_made_ahead_than_asked_for(samples: TrainingSamples) -> None:
    made: list[int] = []
    reached = threading.Event()
    real = samples.micro_batches

    def counted(*place: int) -> Iterator[MicroBatchSamples]:
        for numbers, rows in real(*place):
            made.append(int(numbers[0]))
            if len(made) == 5:
                reached.set()
            yield numbers, rows

    samples.micro_batches = counted  # type: ignore[method-assign]
    prefetch = prefetch_of(samples, 0, 1, [2, 2], 3)
    next(prefetch.step(0))
    assert reached.wait(10)
    # One was read, three are ready; the thread holds one more and cannot hand it over.
    assert not threading.Event().wait(0.2) and len(made) <= 6
    prefetch.close()
    assert not threads()


def test_a_damaged_corpus_is_refused_where_its_sample_is_read(
    samples: TrainingSamples, tmp_path: Path
) -> None:
    tokens = np.memmap(tmp_path / "c.bin", dtype=np.uint16, mode="r+")
    tokens[:] = 60_000
    tokens.flush()
    prefetch = prefetch_of(samples, 0, 1, SIZES, 4)
    with pytest.raises(CorpusError, match="damaged"):
        list(prefetch.step(0))
    prefetch.close()
    assert not threads()
