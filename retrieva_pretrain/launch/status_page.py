"""A run's status as text for a terminal."""

from __future__ import annotations

from datetime import datetime

from retrieva_pretrain.durations import format_duration
from retrieva_pretrain.launch.status import RunStatus

_ATTEMPTS_SHOWN = 8


def status_text(status: RunStatus) -> str:
    """Return a run's status in lines."""
    rows = [("run", status.run), ("state", status.state + (f": {status.reason}" if status.reason else ""))]
    rows.append(("step", _step(status)))
    if status.loss is not None:
        rows.append(
            ("loss", f"{status.loss:.4f}" + _ago(" (a step was recorded {} ago)", status.last_step_age))
        )
    if status.tokens_per_second is not None:
        rate = f"{status.tokens_per_second:,.0f} tokens/s"
        rows.append(("speed", rate + (f", MFU {status.mfu:.1%}" if status.mfu is not None else "")))
    if status.seconds_left is not None and status.state in ("running", "waiting"):
        rows.append(("left", f"{format_duration(status.seconds_left)} of training"))
    if status.checkpoint_step is not None:
        rows.append(
            ("checkpoint", f"step {status.checkpoint_step:,}" + _ago(", {} old", status.checkpoint_age))
        )
    for number, job in enumerate(status.jobs):
        if job.active or number == len(status.jobs) - 1:
            nodes = f", {job.nodes} node{'s' if job.nodes != 1 else ''}" if job.nodes else ""
            rows.append(("job", f"{job.job_id} ({job.scheduler}{nodes}): {job.state}"))
    hidden = len(status.attempts) - _ATTEMPTS_SHOWN
    if status.attempts:
        others = f", {status.failures} failed, {status.preemptions} ended from outside"
        rows.append(
            (
                "attempts",
                f"{len(status.attempts)}{others}" + (f"; the last {_ATTEMPTS_SHOWN}:" if hidden > 0 else ""),
            )
        )
    for attempt in status.attempts[-_ATTEMPTS_SHOWN:]:
        rows.append(("", _attempt(attempt)))
    if status.go_on:
        rows.append(("to go on", status.go_on))
    return "\n".join(f"{name:<11} {text}" for name, text in rows)


def _step(status: RunStatus) -> str:
    text = f"{status.step:,}" + (f" of {status.total_steps:,}" if status.total_steps else "")
    if status.stage is None:
        return text
    return f"{text}, stage {status.stage + 1} of {status.stages}, length {status.seq_length}"


def _ago(text: str, seconds: float | None) -> str:
    return text.format(format_duration(seconds)) if seconds is not None else ""


def _attempt(attempt: dict[str, object]) -> str:
    began = datetime.fromisoformat(str(attempt["started"])).astimezone()
    head = (
        f"{attempt['number']}. {began:%m-%d %H:%M} job {attempt['job_id']}, {attempt['processes']} processes"
    )
    if "outcome" not in attempt:
        return f"{head}, from step {attempt['from_step']}"
    return (
        f"{head}, step {attempt['from_step']} to {attempt['step']}: {attempt['outcome']}: {attempt['reason']}"
    )
