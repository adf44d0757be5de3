"""The loop from a step to the end of the curriculum: steps, and what happens between them."""

from __future__ import annotations

import time
from dataclasses import asdict

from retrieva_pretrain import platform
from retrieva_pretrain.training.checkpoint import Checkpointer
from retrieva_pretrain.training.evaluation import Evaluator
from retrieva_pretrain.training.metrics import MetricsLog, say
from retrieva_pretrain.training.step import Stepper


class Loop:
    """Takes steps; logs, evaluates and saves between them. `metrics` is None on all processes but one."""

    def __init__(
        self,
        stepper: Stepper,
        evaluator: Evaluator,
        checkpointer: Checkpointer,
        metrics: MetricsLog | None,
    ) -> None:
        self.stepper = stepper
        self.curriculum = stepper.curriculum
        self.recipe = stepper.recipe
        self.evaluator = evaluator
        self.checkpointer = checkpointer
        self.metrics = metrics

    def run(self, step: int) -> None:
        """Take the steps from `step` to the end of the curriculum."""
        if step == 0:
            self._evaluate(step)
        while step < self.curriculum.total_steps:
            started = time.perf_counter()
            result = self.stepper.train_step(step)
            platform.current().synchronize()
            step += 1
            if self.metrics is not None:
                shown = step % self.recipe.logging.log_interval == 0 or step == self.curriculum.total_steps
                self.metrics.train_step(step, result, time.perf_counter() - started, show=shown)
            if self._ends_stage(step) or step % self.recipe.evaluation.eval_interval == 0:
                self._evaluate(step)
            is_retry = self.checkpointer.poll(step)
            if self._ends_stage(step) or step % self.recipe.checkpoint.save_interval == 0 or is_retry:
                self._save(step)
        self.checkpointer.finish()

    def _ends_stage(self, step: int) -> bool:
        return step == self.curriculum.stage_steps(self.curriculum.at(step - 1).index)[1]

    def _evaluate(self, step: int) -> None:
        """Score the held-out text at the length of the stage just trained, and at the longest one."""
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

    def _save(self, step: int) -> None:
        self.checkpointer.save(step, self.stepper.model, self.stepper.optimizer, self.stepper.state())
