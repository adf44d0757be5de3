"""The curves of a run at Weights & Biases, where the recipe names a project and the `wandb` extra is installed.

The run keeps its id in the file `wandb_id` of its folder, so that a restart goes on in the same one. What Weights &
Biases does never stops a training that has begun: `metrics.jsonl` has every figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import RetrievaError
from retrieva_pretrain.recipe.schema import Recipe
from retrieva_pretrain.training.saying import say

_ID_FILE = "wandb_id"


class WeightsAndBiases:
    """One run there, from `open` to `close`."""

    def __init__(self, run: Any) -> None:
        """Take a run that `wandb.init` has begun."""
        self._run = run
        # Steps that are taken again after a restart come with a smaller number, which wandb's own counter refuses.
        run.define_metric("*", step_metric="step")

    @classmethod
    def open(cls, recipe: Recipe, folder: Path) -> WeightsAndBiases | None:
        """Begin or go on with the run of this folder; None, with a warning, where the service cannot be reached.

        Raises:
            RetrievaError: there is no key, or it is refused.
        """
        import wandb

        try:
            return cls(
                wandb.init(
                    project=recipe.logging.wandb_project,
                    entity=recipe.logging.wandb_entity,
                    name=recipe.logging.wandb_exp_name or recipe.name,
                    id=_run_id(folder),
                    resume="allow",
                    dir=str(folder),
                    config=recipe.model_dump(mode="json"),
                    # The training's own lines are in its log; torchrun's processes must keep their terminal.
                    settings=wandb.Settings(console="off", silent=True, save_code=False),
                )
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise RetrievaError(
                f"logging.wandb_project: Weights & Biases refused: {_first_line(error)} Set WANDB_API_KEY, or"
                " WANDB_MODE=offline to write files that `wandb sync` sends later, or leave the field out."
            ) from None
        except Exception as error:
            say(
                f"WARNING: Weights & Biases could not be started: {_first_line(error)} The training goes on without"
                " it, and tries again when it is started again"
            )
            return None

    def log(self, step: int, figures: dict[str, Any]) -> None:
        """Send the figures after `step` steps; a failure is told once, and nothing is sent from then on."""
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **figures})
        except Exception as error:
            self._run = None
            say(
                f"WARNING: Weights & Biases takes no more figures: {_first_line(error)} The training goes on without"
            )

    def close(self) -> None:
        """Send what is left; waits for the service."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            say(f"WARNING: Weights & Biases was not told the end of the run: {_first_line(error)}")


def _run_id(folder: Path) -> str:
    """Return the id of the folder's run; a new one is kept there before it is used."""
    path = folder / _ID_FILE
    if path.exists() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    fresh = uuid4().hex[:8]
    write_whole(path, f"{fresh}\n".encode())
    return fresh


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
