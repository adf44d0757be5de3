"""What a training job is told beside its script: a JSON file in the run's `jobs/`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile
from retrieva_pretrain.launch.run_files import RunFiles


class JobSpec(BaseModel):
    """The settings of one submission; all its jobs read the same."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: Path
    """The run's folder; absolute, as all paths here."""
    submission: int
    recipe: Path | None
    """The resolved recipe, as it was when it was submitted."""
    arguments: list[str]
    """What torchrun's processes are: `train` and a recipe."""
    program: Path
    """The file that runs the snapshot of the code."""
    script: Path
    nodes: int
    processes_per_node: int
    threads: int | None
    """CPU threads of a process; None leaves them to the libraries, or to the profile's variables."""
    profile: ClusterProfile
    max_failures: int
    max_preemptions: int

    @property
    def files(self) -> RunFiles:
        """The run's files."""
        return RunFiles(self.run)


def read_spec(path: Path) -> JobSpec:
    """Read a job's settings.

    Raises:
        LaunchError: the file cannot be read.
    """
    try:
        return JobSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise LaunchError(f"{path}: cannot be read as the settings of a job: {error}") from None
