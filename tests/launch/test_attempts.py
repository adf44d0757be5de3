"""What is counted of a run's history, and what its files say of an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieva_pretrain.errors import LaunchError, RecipeError, RunIsHeldError, SkippedStepsError
from retrieva_pretrain.exit_codes import FAILED, REQUEUE
from retrieva_pretrain.launch.attempts import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    Cancelled,
    Outcome,
    failures_in_a_row,
    held_in_a_row,
    preemptions,
    read_history,
)
from retrieva_pretrain.launch.outcome import failure_report, judge
from retrieva_pretrain.launch.rank_end import describe_end, write_end
from retrieva_pretrain.launch.records import append_record
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers.slurm import slurm_seconds
from retrieva_pretrain.outcome import write_outcome
from retrieva_pretrain.redaction import redacted


def attempt(number: int, outcome: Outcome, before: int, after: int) -> Attempt:
    start = AttemptStart(
        time="t", number=number, submission=1, job_id="1", hosts=["a"], processes=1, step=before
    )
    return Attempt(
        start=start, end=AttemptEnd(time="t", number=number, outcome=outcome, reason="r", step=after)
    )


@pytest.mark.parametrize(
    ("history", "failures", "killed"),
    [
        ([("failed", 0, 0), ("failed", 0, 0)], 2, 0),
        # A new checkpoint between them begins the count anew.
        ([("failed", 0, 0), ("failed", 0, 100)], 1, 0),
        ([("failed", 0, 0), ("left", 0, 100)], 0, 0),
        # Leaving on time without a new checkpoint would go on for ever.
        ([("left", 5, 5), ("left", 5, 5)], 2, 0),
        ([("failed", 0, 0), ("killed", 0, 0), ("interrupted", 0, 0), ("failed", 0, 0)], 2, 2),
    ],
)
def test_failures_count_until_a_new_checkpoint_and_preemptions_apart_from_them(
    history: list[tuple[Outcome, int, int]], failures: int, killed: int
) -> None:
    attempts = [attempt(i, *row) for i, row in enumerate(history, start=1)]
    assert failures_in_a_row(attempts) == failures
    assert preemptions(attempts) == killed


def test_attempts_that_found_the_run_held_are_no_failures_and_counted_by_themselves() -> None:
    def held(number: int) -> Attempt:
        found = attempt(number, "failed", 0, 0)
        assert found.end is not None
        return Attempt(start=found.start, end=found.end.model_copy(update={"held": True}))

    history = [attempt(1, "failed", 0, 0), held(2), held(3), held(4)]
    assert (failures_in_a_row(history), held_in_a_row(history)) == (1, 3)
    assert held_in_a_row([*history, attempt(5, "failed", 0, 0)]) == 0


def test_a_history_is_read_as_it_was_written_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "attempts.jsonl"
    done = attempt(1, "left", 0, 10)
    append_record(file, done.start)
    assert read_history(file).attempts == [Attempt(start=done.start)]
    assert done.end is not None
    append_record(file, done.end)
    append_record(file, Cancelled(time="t", submission=3))
    with file.open("a") as stream:
        stream.write('{"event": "sta')
    history = read_history(file)
    assert (history.attempts, history.cancelled_submission, history.next_number) == ([done], 3, 2)
    file.write_text('{"event": "start"}\n')
    with pytest.raises(LaunchError, match=r"attempts\.jsonl:1: is no record of an attempt"):
        read_history(file)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:59", 59), ("3:04", 184), ("02:03:04", 7384), ("1-00:00:01", 86401)]
)
def test_times_as_slurm_writes_them(text: str, seconds: int) -> None:
    assert slurm_seconds(text) == seconds


@pytest.mark.parametrize("text", ["UNLIMITED", "INVALID", "5"])
def test_other_words_of_slurm_are_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        slurm_seconds(text)


def raised(error: BaseException) -> SystemExit:
    """Return the exit that the command line makes of an error."""
    try:
        try:
            raise error
        except BaseException:
            raise SystemExit(FAILED)  # noqa: B904 - as the command line does
    except SystemExit as stop:
        return stop


def ended(
    tmp_path: Path, ends: dict[int, BaseException | None], said: tuple[str, str] | None = None
) -> RunFiles:
    files = RunFiles(tmp_path)
    logs = files.attempt_logs(1)
    logs.mkdir(parents=True)
    for rank, error in ends.items():
        write_end(logs, describe_end(rank, error))
    if said is not None:
        write_outcome(files.run, said[0], step=None, message=said[1])
    return files


@pytest.mark.parametrize(
    ("ends", "said", "codes", "outcome", "reason"),
    [
        ({0: None, 1: None}, ("done", "the run is complete"), [0], "done", "trained to the end"),
        ({0: SystemExit(REQUEUE)}, ("stopped", "the time limit"), [0], "left", "time limit"),
        # Not a word, such as where training had not begun.
        ({0: SystemExit(REQUEUE)}, None, [0], "left", "left before its time"),
        ({0: raised(RecipeError("a.yaml:3: no"))}, None, [1], "stopped", "a.yaml:3: no"),
        ({0: MemoryError("CUDA out of memory. Tried")}, None, [1], "stopped", "out of memory, rank 0"),
        ({0: RuntimeError("CUDA out of memory. Tried")}, None, [1], "stopped", "out of memory, rank 0"),
        ({0: RuntimeError("NCCL error")}, None, [1], "failed", "rank 0: RuntimeError: NCCL error"),
        # What another process met as a consequence does not count: the first one has written exit.json.
        (
            {0: RuntimeError("peer is gone")},
            ("failed", "OSError: disk"),
            [1],
            "failed",
            "RuntimeError: peer is gone",
        ),
        ({}, ("failed", "OSError: disk"), [1], "failed", "OSError: disk"),
        # A watchdog ends its process without an exception.
        (
            {0: RuntimeError("peer is gone")},
            ("hung", "process 1 made no"),
            [1],
            "failed",
            "hung: process 1 made no",
        ),
        (
            {0: raised(SkippedStepsError("10 steps in a row"))},
            ("failed", "10"),
            [1],
            "stopped",
            "10 steps in a row",
        ),
        # The lock of a node that was lost: the file system frees it after a while.
        ({0: raised(RunIsHeldError("at work"))}, ("failed", "at work"), [1], "failed", "at work"),
        ({}, None, [1], "failed", "could not be started"),
        ({}, None, [0], "failed", "without a word"),
    ],
)
def test_an_end_is_judged_by_what_was_left_behind(
    ends: dict[int, BaseException | None],
    said: tuple[str, str] | None,
    codes: list[int],
    outcome: str,
    reason: str,
    tmp_path: Path,
) -> None:
    found = judge(ended(tmp_path, ends, said), 1, codes, told_to_leave=False)
    assert found.outcome == outcome
    assert reason in found.reason
    assert found.held == (reason == "at work")


def test_what_torchrun_and_the_kernel_say_is_read_where_no_rank_could_speak(tmp_path: Path) -> None:
    files = ended(tmp_path, {})
    log = files.attempt_logs(1) / "node_000.log"
    log.write_text(
        "Root Cause (first observed failure):\n[0]:\n  rank      : 3 (local_rank: 1)\n  exitcode  : -9 (pid: 8)\n"
    )
    found = judge(files, 1, [1], told_to_leave=False)
    assert (found.outcome, found.rank) == ("failed", 3)
    assert "rank 3 was killed by signal 9" in found.reason
    # The other rank has lost its peer, and says no more than that.
    logs = files.attempt_logs(1)
    write_end(logs, describe_end(0, RuntimeError("Connection reset by peer")))
    assert judge(files, 1, [1], told_to_leave=False) == found
    (logs / "rank_00003.log").write_text("its last line\n")
    report = failure_report(files, 1, found.rank)
    assert report.startswith("rank 3 failed first")
    assert report.endswith("its last line")
    (files.attempt_logs(1) / "start.log").write_text(
        "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0\n"
    )
    found = judge(files, 1, [1], told_to_leave=False)
    assert found.outcome == "stopped"
    assert "memory did not suffice" in found.reason


def test_tokens_of_the_environment_are_taken_out_of_a_text() -> None:
    variables = {"HF_TOKEN": "hf_abcdef", "WANDB_API_KEY": "0123456789", "HOME": "/home/me", "MY_TOKEN": "x"}
    text = redacted("hf_abcdef at /home/me, 0123456789, x", variables)
    assert text == "[HF_TOKEN] at /home/me, [WANDB_API_KEY], x"
