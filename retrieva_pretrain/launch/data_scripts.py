"""The files of one submission of `retrieva data build --cluster`: the corpus, the array's script, the merge's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.corpus import CorpusConfig
from retrieva_pretrain.launch.profiles import ClusterProfile
from retrieva_pretrain.launch.schedulers import Scheduler
from retrieva_pretrain.launch.scripts import environment_lines, program_command, render
from retrieva_pretrain.recipe.loading import dump_yaml


@dataclass(frozen=True)
class DataScripts:
    """What the jobs of one submission read and run."""

    config: CorpusConfig
    output: Path
    """Absolute."""
    profile: ClusterProfile
    scheduler: Scheduler
    shards: int
    number: int
    """Of the submission, from 1; every submission keeps its files."""

    @property
    def folder(self) -> Path:
        """Where the files, logs and records of a corpus's jobs lie."""
        return jobs_folder(self.config, self.output)

    @property
    def corpus(self) -> Path:
        """The corpus with its overrides: the user's own file may be edited while the jobs wait."""
        return corpus_file(self.folder, self.number)

    @property
    def array(self) -> Path:
        """The script of the array."""
        return self.folder / f"{self.number:03}-array{self.scheduler.script_suffix}"

    @property
    def merge(self) -> Path:
        """The script of the merge."""
        return self.folder / f"{self.number:03}-merge{self.scheduler.script_suffix}"

    @cached_property
    def files(self) -> dict[Path, str]:
        """Every file with its content. Raises LaunchError for what no script can hold."""
        return {
            self.corpus: dump_yaml(self.config),
            self.array: self._script("array"),
            self.merge: self._script("merge"),
        }

    def _script(self, kind: str) -> str:
        array = kind == "array"
        arguments = ["data", "build" if array else "merge", str(self.corpus), "--output", str(self.output)]
        if array:
            arguments += ["--workers", str(self.profile.data.cpus_per_task)]
        values = {
            "job_name": f"retrieva-{kind}-{self.config.name}",
            "array": f"1-{self.shards}" if array else None,
            "shards": self.shards,
            "log": self.scheduler.log_path(self.folder / "logs", f"{self.number:03}-{kind}", array=array),
            "working_directory": Path.cwd(),
            "environment": environment_lines(self.profile),
            "command": program_command(self.profile, arguments),
        }
        template = f"{self.scheduler.templates}/data_job{self.scheduler.script_suffix}"
        return render(template, self.profile, values)


def jobs_folder(config: CorpusConfig, output: Path) -> Path:
    """`DIR/.NAME.jobs`."""
    return Path(output) / f".{config.name}.jobs"


def corpus_file(folder: Path, number: int) -> Path:
    """The corpus as submission `number` was given it."""
    return folder / f"{number:03}-corpus.yaml"
