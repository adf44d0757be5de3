"""Where the launcher keeps what belongs to a run.

runs/NAME/
  jobs.jsonl                  a line for every job that was submitted
  attempts.jsonl              what became of them: one start and one end for every time that training was started
  jobs/001-train.sbatch       the script of the first submission, its recipe, its settings and the code it runs
  logs/001-JOB.log            what a job itself said
  logs/attempt_0001/          a file for every rank, and what each said at its end
  exit.json                   how training ended last; written by training itself (retrieva_pretrain/outcome.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrieva_pretrain.checkpoint_names import checkpoint_folders
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class RunFiles:
    """The launcher's files of one run."""

    run: Path

    @property
    def jobs(self) -> Path:
        """What was submitted."""
        return self.run / "jobs"

    @property
    def records(self) -> Path:
        """A line for every job."""
        return self.run / "jobs.jsonl"

    @property
    def attempts(self) -> Path:
        """What became of the jobs."""
        return self.run / "attempts.jsonl"

    @property
    def logs(self) -> Path:
        """The logs of all jobs and attempts."""
        return self.run / "logs"

    @property
    def metrics(self) -> Path:
        """What training says of itself."""
        return self.run / "metrics.jsonl"

    def attempt_logs(self, number: int) -> Path:
        """The folder of one attempt's logs."""
        return self.logs / f"attempt_{number:04}"

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """Return step and folder of the newest checkpoint; it is renamed to its name when it is whole."""
        found = checkpoint_folders(self.run / "checkpoints")
        return max(
            ((step, path) for step, path in found if (path / "checkpoint.json").exists()), default=None
        )

    def newest_step(self) -> int:
        """Return the step of the newest checkpoint, 0 where there is none."""
        newest = self.newest_checkpoint()
        return newest[0] if newest is not None else 0


def find_run(text: str) -> RunFiles:
    """Return the run that a user names: by its folder, by its recipe's file, or by its name under `runs`.

    Raises:
        LaunchError: there is no such run.
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        path = load_yaml(Recipe, path).run_folder
    elif not _is_run(path) and "/" not in text:
        path = Path("runs") / text
    if _is_run(path):
        return RunFiles(path)
    known = sorted(p.name for p in Path("runs").iterdir() if _is_run(p)) if Path("runs").is_dir() else []
    raise LaunchError(
        f"{text}: no run was launched or trained there ({path}); give a run's folder, its recipe's file, or the name"
        " of a run in runs" + (f": {', '.join(known[:20])}" if known else "")
    )


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("jobs.jsonl", "metrics.jsonl", "recipe.yaml"))
