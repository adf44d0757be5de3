"""The loop from a step to the end of the curriculum: steps, and what happens between them."""

from __future__ import annotations

import time
from dataclasses import asdict

from retrieva_pretrain.errors import SkippedStepsError
from retrieva_pretrain.model.build import gather_weights
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.distributed import from_first
from retrieva_pretrain.training.evaluation import Evaluator
from retrieva_pretrain.training.metrics import MetricsLog
from retrieva_pretrain.training.profiling import StepProfiler
from retrieva_pretrain.training.saying import say
from retrieva_pretrain.training.step import Stepper, StepResult
from retrieva_pretrain.training.stopping import Stopped


class Loop:
    """Takes steps; logs, evaluates and saves between them. `metrics` and `profiler` are None on all but one."""

    def __init__(
        self,
        stepper: Stepper,
        evaluator: Evaluator,
        checkpointer: Checkpointer,
        metrics: MetricsLog | None,
        profiler: StepProfiler | None = None,
    ) -> None:
        self.stepper = stepper
        self.curriculum = stepper.curriculum
        self.recipe = stepper.recipe
        self.stop_requests = stepper.stop_requests
        self.watchdog = stepper.watchdog
        self.evaluator = evaluator
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.profiler = profiler
        if profiler is not None:
            stepper.before_micro_batch = profiler.before_micro_batch
        stepper.is_writing = lambda: checkpointer.is_writing

    def run(self, step: int) -> None:
        """Take the steps from `step` to the end of the curriculum.

        Raises:
            Stopped: the run was asked to stop before its end; it has saved.
        """
        started_at = step
        if self._misses_evaluation(step):
            self._evaluate(step)
        stop = self.stop_requests.decide()
        while step < self.curriculum.total_steps and stop is None:
            started, waited = time.perf_counter(), self.stepper.prefetch.waited
            self.watchdog.enter("step", step)
            self.stop_requests.expect(
                stage_begins=self._ends_stage(step + 1), evaluation_comes=self._evaluates_after(step + 1)
            )
            # The step waits for the device where it reads its figures, and nowhere else. Its update is still on the
            # device when this returns, and counts in the time of the next step.
            result = self._take(step)
            step += 1
            seconds = time.perf_counter() - started
            is_first = step == started_at + 1 or self._begins_stage(step - 1)
            self.stop_requests.note(seconds, self.checkpointer.slowest, is_first=is_first)
            if self.metrics is not None:
                skipped = self.stepper.skips.skipped
                data_wait = self.stepper.prefetch.waited - waited
                self.metrics.train_step(step, result, seconds, data_wait, skipped, is_first=is_first)
            if self.profiler is not None:
                self.watchdog.enter("checkpoint", step)
                self.profiler.after_step(step)
            # A request in the last step comes too late: the run ends here, with all that belongs to its end.
            is_over = step == self.curriculum.total_steps
            stop = result.stop if result.stop and not is_over else self._between_steps(step, result.writing)
        if self.profiler is not None:
            self.profiler.close(step)
        if stop is not None and step < self.curriculum.total_steps:
            self._leave(step, stop, has_moved=step > started_at)
        self.watchdog.enter("checkpoint", step)
        self.checkpointer.finish()

    def _take(self, step: int) -> StepResult:
        try:
            return self.stepper.train_step(step)
        except SkippedStepsError:
            # The run ends, on all processes alike; a checkpoint that is being written need not be lost with it.
            self.watchdog.enter("checkpoint", step)
            self.checkpointer.settle()
            raise

    def _between_steps(self, step: int, writing: int) -> str | None:
        """Evaluate and save where it is time; returns why the run is to stop, where it was asked meanwhile.

        `writing`: processes that are still writing a checkpoint.
        """
        evaluates = self._evaluates_after(step)
        if evaluates:
            self._evaluate(step)
        # Not at every step: another phase sets the watchdog's timer anew, which starts a thread.
        if self.checkpointer.is_saving:
            self.watchdog.enter("checkpoint", step)
        is_retry = self.checkpointer.poll(step, writing)
        saves = self._ends_stage(step) or step % self.recipe.checkpoint.save_interval == 0 or is_retry
        if saves:
            self.watchdog.enter("checkpoint", step)
            self._save(step)
        # These may have taken long, and whoever asks does not wait for ever.
        return self.stop_requests.decide() if evaluates or saves else None

    def _leave(self, step: int, reason: str, *, has_moved: bool) -> None:
        """Save what has been done, if anything, and end."""
        if self.metrics is not None:
            say(f"asked to stop by {reason} after step {step}")
        self.watchdog.enter("checkpoint", step)
        self.checkpointer.settle()  # one that failed is nothing to end with: what is saved now is newer
        if has_moved and self.checkpointer.last_saved != step:
            self._save(step)
        self.checkpointer.finish()
        raise Stopped(reason, step)

    def _begins_stage(self, step: int) -> bool:
        return self.curriculum.at(step).step_in_stage == 0

    def _ends_stage(self, step: int) -> bool:
        return step == self.curriculum.stage_steps(self.curriculum.at(step - 1).index)[1]

    def _evaluates_after(self, step: int) -> bool:
        return self._ends_stage(step) or step % self.recipe.evaluation.eval_interval == 0

    def _misses_evaluation(self, step: int) -> bool:
        """Whether the step that the run begins after was to be evaluated and was not: a stop leaves at once."""
        if step == 0:
            return True
        if step == self.curriculum.total_steps or not self._evaluates_after(step):
            return False
        return from_first(self.metrics is not None and not self.metrics.has_evaluation(step))

    def _evaluate(self, step: int) -> None:
        """Score the held-out text at the length of the stage just trained, and at the longest one."""
        started = time.perf_counter()
        self.watchdog.enter("evaluation", step)
        gather_weights(self.stepper.model)
        position = self.curriculum.at(max(step - 1, 0))
        longest = max(stage.seq_length for stage in self.recipe.curriculum)
        for seq_length in sorted({position.seq_length, longest}):
            ceiling = next(
                layout.micro_batch_size
                for stage, layout in zip(self.recipe.curriculum, self.stepper.layouts, strict=True)
                if stage.seq_length == seq_length
            )
            shown = []
            for corpus, scores in self.evaluator.evaluate(self.stepper.model, seq_length, ceiling).items():
                if self.metrics is None:
                    continue
                self.metrics.evaluation(step, corpus, seq_length, **asdict(scores))
                shown.append(f"{corpus} {scores.loss:.3f} ({scores.masked_accuracy:.1%})")
            if shown:
                say(
                    f"held-out text after step {step}, length {seq_length}, loss (accuracy): "
                    + ", ".join(shown)
                )
        self.stop_requests.note_evaluation(time.perf_counter() - started)

    def _save(self, step: int) -> None:
        gather_weights(self.stepper.model)
        self.checkpointer.save(step, self.stepper.model, self.stepper.optimizer, self.stepper.state())
