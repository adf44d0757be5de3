"""The first process of a training job: starts training on the job's nodes, and decides what follows when it ends.

Done, or failed for good: the job ends. Time is up: the job goes back into the queue, or the next one takes over.
Anything else: training is started again at once from the newest checkpoint, up to a cap.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from retrieva_pretrain.errors import LaunchError, RetrievaError
from retrieva_pretrain.exit_codes import DONE, FAILED, REQUEUE
from retrieva_pretrain.launch.attempts import (
    Attempt,
    AttemptEnd,
    AttemptStart,
    History,
    failures_in_a_row,
    held_in_a_row,
    preemptions,
    read_history,
)
from retrieva_pretrain.launch.follow_up import FollowUp
from retrieva_pretrain.launch.node import LEAVE_SIGNALS, Meeting
from retrieva_pretrain.launch.nodes import start_nodes
from retrieva_pretrain.launch.outcome import Ending, failure_report, judge
from retrieva_pretrain.launch.profiles import seconds
from retrieva_pretrain.launch.records import append_record, held, now
from retrieva_pretrain.launch.saying import say
from retrieva_pretrain.launch.schedulers.inside import Inside
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.launch.torchrun import free_port, kill_tree
from retrieva_pretrain.outcome import forget_outcome
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.redaction import redacted

_STRAGGLERS_SECONDS = 120
"""How long nodes may go on, at least, after one has failed."""
_WORTH_A_START_SECONDS = 60
_CANCELLED = "cancelled by `retrieva cancel`"
_LOCK_PATIENCE_SECONDS = 300
"""A file system takes a minute or two to free what a lost node has locked, and the next job may start at once."""
_LOCK_INTERVAL_SECONDS = 5
_MOST_HELD = 10
"""Attempts in a row that find the run held by another training, a minute apart, before that one is taken for alive."""


class Supervisor:
    """Supervises one job of a run.

    `command` starts training on the nodes; `lock_patience` are the seconds that another job of the run may take to end.
    """

    def __init__(
        self,
        spec: JobSpec,
        command: Sequence[str],
        job: Inside,
        *,
        lock_patience: float = _LOCK_PATIENCE_SECONDS,
    ) -> None:
        self.spec = spec
        self.command = list(command)
        self.job = job
        self.files = spec.files
        self.lock_patience = lock_patience
        self.hosts: list[str] = []
        self.told: list[int] = []
        self.follow_up = FollowUp(spec, job.job_id)

    def run(self) -> int:
        """Train until the job must end; return its exit code."""
        for number in LEAVE_SIGNALS:
            signal.signal(number, self._note_signal)
        with held(self.files.jobs / "running", self._waits_for_the_other()) as mine:
            if not mine:
                if self._is_cancelled(read_history(self.files.attempts)):
                    say(f"{_CANCELLED}; nothing is started")
                    return DONE
                say(f"another job of this run is at work; this one ends (see {self.files.jobs})")
                return FAILED
            history = self._close_killed(read_history(self.files.attempts))
            if (refusal := self._refusal(history)) is not None:
                say(refusal)
                return DONE if self._chain_is_over(history) else FAILED
            try:
                # Before anything is submitted: what fails here fails in the next job as well.
                self.hosts = self._checked_hosts()
                self.follow_up.prepare()
                return self._train()
            except Exception as error:
                self._stop_because_of(error)
                if isinstance(error, LaunchError | OSError):
                    return FAILED
                raise

    def _waits_for_the_other(self) -> Callable[[], bool]:
        """Return what waits a moment for the run's lock, and says whether it is worth another try."""
        end = time.monotonic() + self.lock_patience
        waited = False

        def wait() -> bool:
            nonlocal waited
            left = end - time.monotonic()
            if left <= 0:
                return False
            if not waited:
                say(
                    f"another job of this run is at work, or its node was lost; waiting for up to {left:.0f} s"
                )
            waited = True
            return not self._sleep(min(_LOCK_INTERVAL_SECONDS, left))

        return wait

    def _train(self) -> int:
        """Start training, and again after a failure that may pass."""
        while True:
            ending = self._attempt()
            if ending.outcome in ("done", "stopped", "cancelled"):
                self.follow_up.cancel()
                return FAILED if ending.outcome == "stopped" else DONE
            if ending.outcome != "failed" or self._was_interrupted:
                return self._go_on_later()
            failures = failures_in_a_row(read_history(self.files.attempts).of(self.spec.submission))
            pause = max(ending.pause, min(5 * 2 ** (failures - 1), 60))
            end = self._leave_at()
            if end is not None and time.time() + pause + _WORTH_A_START_SECONDS > end:
                return self._go_on_later()
            say(f"starting again from step {self.files.newest_step()} in {pause:.0f} s")
            if self._sleep(pause):
                return self._go_on_later()

    def _attempt(self) -> Ending:
        """Train once, record how it began and ended, and say so."""
        history = read_history(self.files.attempts)
        number, before = history.next_number, self.files.newest_step()
        self.files.attempt_logs(number).mkdir(parents=True, exist_ok=True)
        # What an earlier attempt has said must not be taken for this one's.
        forget_outcome(self.files.run)
        address = self.spec.profile.training.rendezvous_address or self.hosts[0]
        meeting = Meeting(number, address, free_port(), self._leave_at())
        start = self._start(number, before)
        append_record(self.files.attempts, start)
        say(
            f"attempt {number}: {start.processes} processes on {' '.join(self.hosts)}, from step {before};"
            f" logs in {self.files.attempt_logs(number)}"
        )
        codes = self._wait(start_nodes(self.spec, self.command, meeting, self.hosts), meeting.leave_at)
        ending = judge(self.files, number, codes, told_to_leave=bool(self.told))
        return self._record(Attempt(start=start), self._seen_whole(ending))

    def _start(self, number: int, step: int) -> AttemptStart:
        return AttemptStart(
            time=now(),
            number=number,
            submission=self.spec.submission,
            job_id=self.job.job_id,
            hosts=self.hosts,
            processes=self.spec.nodes * self.spec.processes_per_node,
            step=step,
        )

    def _checked_hosts(self) -> list[str]:
        hosts = self.job.hosts()
        if len(hosts) != self.spec.nodes:
            raise LaunchError(f"the job has {len(hosts)} nodes ({' '.join(hosts)}), not {self.spec.nodes}")
        return hosts

    def _stop_because_of(self, error: Exception) -> None:
        """End the chain where not training has failed but this process: the next job's would fail as well."""
        reason = redacted(
            f"the job's supervisor failed: {error if isinstance(error, LaunchError) else repr(error)}"
        )
        # First, and each by itself: a full disk may be what has failed.
        with suppress(LaunchError, OSError):
            self.follow_up.cancel()
        with suppress(LaunchError, OSError):
            history, step = read_history(self.files.attempts), self.files.newest_step()
            number = history.next_number
            if history.attempts and history.attempts[-1].end is None:
                number = history.attempts[-1].start.number
            else:
                append_record(self.files.attempts, self._start(number, step))
            end = AttemptEnd(time=now(), number=number, outcome="stopped", reason=reason, step=step)
            append_record(self.files.attempts, end)
        with suppress(OSError):
            say(f"stopped: {reason}")

    def _seen_whole(self, ending: Ending) -> Ending:
        """Return the ending as what surrounds the attempt makes of it."""
        if ending.outcome not in ("left", "failed"):
            return ending
        if self._is_cancelled(read_history(self.files.attempts)):
            return Ending("cancelled", _CANCELLED)
        if ending.outcome == "left" and self._was_interrupted:
            return Ending("interrupted", "told to end from outside: preempted, or cancelled")
        return ending

    def _record(self, attempt: Attempt, ending: Ending) -> Ending:
        """Write down how an attempt ended; the failure that reaches the cap stops the run."""
        end = AttemptEnd(
            time=now(),
            number=attempt.start.number,
            outcome=ending.outcome,
            reason=redacted(ending.reason),
            step=self.files.newest_step(),
            rank=ending.rank,
            held=ending.held,
        )
        mine = [
            a
            for a in read_history(self.files.attempts).of(self.spec.submission)
            if a.start.number != end.number
        ]
        all_of_mine = [*mine, Attempt(start=attempt.start, end=end)]
        failures = failures_in_a_row(all_of_mine)
        reason = None
        if end.held:
            if held_in_a_row(all_of_mine) >= _MOST_HELD:
                reason = f"{_MOST_HELD} attempts in a row found the run held; the last: {end.reason}"
        elif end.outcome in ("failed", "left") and failures >= self.spec.max_failures:
            reason = f"{failures} attempts in a row without a new checkpoint; the last: {end.reason}"
        if reason is not None:
            end = end.model_copy(update={"outcome": "stopped", "reason": reason})
        append_record(self.files.attempts, end)
        if report := failure_report(self.files, end.number, end.rank):
            say(redacted(report))
        say(f"attempt {end.number}: {end.outcome} at step {end.step}: {end.reason}")
        return replace(ending, outcome=end.outcome, reason=end.reason)

    def _wait(self, processes: Sequence[subprocess.Popen[bytes]], leave_at: float | None) -> list[int]:
        """Wait for the nodes, tell them to leave when this process is told, and return their exit codes."""
        passed_on, kill_at = 0, None
        try:
            while any(process.poll() is None for process in processes):
                time.sleep(0.2)
                if len(self.told) > passed_on and self._must_leave_now(leave_at):
                    if self.told.count(signal.SIGTERM) + self.told.count(signal.SIGINT) > 1:
                        break  # the second time means at once
                    passed_on = len(self.told)
                    for process in processes:
                        if process.poll() is None:
                            process.send_signal(signal.SIGUSR1)
                if kill_at is None and any(process.poll() for process in processes):
                    kill_at = time.monotonic() + self._stragglers_seconds()
                if kill_at is not None and time.monotonic() > kill_at:
                    break
        finally:
            for process in processes:
                kill_tree(process)
        return [process.returncode for process in processes]

    def _stragglers_seconds(self) -> float:
        """Return how long nodes may go on after one has failed: until the watchdog of one that hangs has spoken."""
        try:
            recipe = load_yaml(Recipe, self.spec.recipe) if self.spec.recipe is not None else None
        except RetrievaError:  # another one's failure is not to end the supervisor
            recipe = None
        return max(_STRAGGLERS_SECONDS, recipe.faults.step_timeout + 60 if recipe is not None else 0)

    def _must_leave_now(self, leave_at: float | None) -> bool:
        """Whether a signal means now: the scheduler's reminder may come a minute too early."""
        reminder = set(self.told) <= {signal.SIGUSR1} and self.spec.profile.scheduler == "slurm"
        if not reminder or leave_at is None or time.time() >= leave_at:
            return True
        return self._is_cancelled(read_history(self.files.attempts))

    def _is_cancelled(self, history: History) -> bool:
        return history.cancelled_submission >= self.spec.submission

    def _close_cancelled(self, history: History) -> None:
        """Write down that an attempt after which another would have come was the last, because of `retrieva cancel`."""
        say(f"{_CANCELLED}; nothing goes on")
        mine = history.of(self.spec.submission)
        if mine and mine[-1].end is not None and mine[-1].end.outcome == "failed":
            reason = f"{_CANCELLED}, after: {mine[-1].end.reason}"
            changes = {"time": now(), "outcome": "cancelled", "reason": reason}
            append_record(self.files.attempts, mine[-1].end.model_copy(update=changes))

    def _leave_at(self) -> float | None:
        end = self.job.end()
        return None if end is None else end - seconds(self.spec.profile.training.leave_before_end)

    @property
    def _was_interrupted(self) -> bool:
        return bool(set(self.told) - {signal.SIGUSR1})

    def _sleep(self, duration: float) -> bool:
        """Sleep; return whether a signal came."""
        end, told = time.monotonic() + duration, len(self.told)
        while time.monotonic() < end and len(self.told) == told:
            time.sleep(0.1)
        return len(self.told) > told

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.told.append(number)

    def _close_killed(self, history: History) -> History:
        """Write the end of an attempt that was killed together with its supervisor."""
        if history.attempts and history.attempts[-1].end is None:
            start = history.attempts[-1].start
            reason = f"job {start.job_id} was killed from outside: preempted, out of time, or its node failed"
            end = AttemptEnd(
                time=now(),
                number=start.number,
                outcome="killed",
                reason=reason,
                step=self.files.newest_step(),
            )
            append_record(self.files.attempts, end)
            say(f"attempt {start.number}: {reason}")
            history = read_history(self.files.attempts)
        return history

    def _refusal(self, history: History) -> str | None:
        """Return why nothing is started, where nothing is to be."""
        if self._is_cancelled(history):
            return "the run was cancelled; nothing is started"
        mine = history.of(self.spec.submission)
        if not mine:
            return None
        last = mine[-1]
        if last.end is not None and (
            last.end.outcome == "done"
            or (last.end.outcome == "stopped" and last.start.job_id != self.job.job_id)
        ):
            return f"nothing is started: attempt {last.end.number} ended as {last.end.outcome}: {last.end.reason}"
        if (killed := preemptions(mine)) >= self.spec.max_preemptions:
            reason = f"ended from outside {killed} times; training.max_preemptions allows no more"
            if last.end is not None and last.end.outcome != "stopped":
                stopped = last.end.model_copy(update={"outcome": "stopped", "reason": reason, "time": now()})
                append_record(self.files.attempts, stopped)
            return reason
        return None

    def _chain_is_over(self, history: History) -> bool:
        mine = history.of(self.spec.submission)
        done = bool(mine) and mine[-1].end is not None and mine[-1].end.outcome == "done"
        return done or self._is_cancelled(history)

    def _go_on_later(self) -> int:
        """Let the scheduler start training again, unless somebody has cancelled; return this job's exit code."""
        if self._is_cancelled(history := read_history(self.files.attempts)):
            self._close_cancelled(history)
            self.follow_up.cancel()
            return DONE
        if self.follow_up.submitted is not None:
            say(f"job {self.follow_up.submitted} goes on")
            return DONE
        if self.spec.profile.scheduler == "local":
            say("start the same command again to go on")
            return REQUEUE
        if self.job.is_ending():
            say("the scheduler ends this job; where it does not start it again: retrieva launch")
            return REQUEUE
        if self.spec.profile.training.goes_on == "requeue":
            try:
                code = self.job.requeue()
                say("back into the queue")
                return code
            except LaunchError as error:
                say(f"cannot be requeued: {error}")
        self.follow_up.submit()
        return DONE if self.follow_up.submitted is not None else REQUEUE
