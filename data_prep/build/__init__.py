"""Raw files to a corpus: planned as tasks, read and tokenized into shards, merged, and the manifest last.

`DIR/.NAME.build` holds the plan and the shards until the corpus is complete. A process may be killed at
any time: the same command goes on with the shards that are finished and gives the same bytes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_prep.build.existing import complete_manifest
from data_prep.build.lock import share_lock, whole_build_lock
from data_prep.build.merge import all_shards, merge, too_many_malformed
from data_prep.build.plan import (
    BuildPlan,
    Cut,
    Fingerprint,
    Input,
    Task,
    changes,
    fingerprint,
    inputs_of,
    make_plan,
)
from data_prep.build.pool import run_tasks
from data_prep.build.shard import finished_parts
from data_prep.build.task import TaskProgress, TaskRunner
from data_prep.contamination import ContaminationIndex
from data_prep.corpus import CorpusConfig
from data_prep.errors import DataPrepError
from data_prep.manifest import Manifest
from data_prep.sources.files import expand
from data_prep.tokenizer import Tokenizer

__all__ = [
    "Cut",
    "Progress",
    "ShareReport",
    "build",
    "build_folder",
    "build_share",
    "corpus_prefix",
    "merge_shares",
]

Stage = Literal["checking", "reading", "merging", "unchanged", "built"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a build stands; `unchanged` means that the complete corpus was there already.

    `source_bytes_before` were read by earlier runs: a rate leaves them out.
    """

    stage: Stage
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    malformed: int = 0
    source_bytes_done: int = 0
    source_bytes: int = 0
    source_bytes_before: int = 0
    text_bytes_before: int = 0


@dataclass(frozen=True, slots=True)
class ShareReport:
    """What a share of a build has finished."""

    tasks: int
    all_tasks: int
    documents: int
    tokens: int
    text_bytes: int


Report = Callable[[Progress], None]
_EVIDENCE = 100


def corpus_prefix(config: CorpusConfig, output_dir: Path) -> Path:
    """`DIR/NAME`, what the other commands take as the corpus."""
    return Path(output_dir) / config.name


def build_folder(config: CorpusConfig, output_dir: Path) -> Path:
    """`DIR/.NAME.build`: the plan and the shards of a build that is not complete."""
    return Path(output_dir) / f".{config.name}.build"


def build(
    config: CorpusConfig,
    output_dir: Path,
    *,
    progress: Report | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    cut: Cut | None = None,
) -> Manifest:
    """Build `output_dir/NAME.bin`, `.idx` and the manifest, and return the manifest.

    A complete corpus of the same inputs and options is left as it is; its manifest is returned. An
    unfinished build of the same goes on. `workers` are CPUs (default: those this process may use).

    Raises `DataPrepError` for input that cannot be read, for a corpus or an unfinished build of other inputs
    under the same name unless `overwrite`, for a second build at the same time, and where the disk refuses.
    """
    report = progress or (lambda _: None)
    report(Progress("checking"))
    job = _prepare(config, output_dir, cut)
    if not overwrite and (existing := job.existing()):
        report(_final("unchanged", existing))
        return existing
    with job.working(whole_build_lock(job.folder)):
        # The build that held the lock may have completed the corpus meanwhile.
        if not overwrite and (existing := job.existing()):
            return existing
        runner = job.runner(overwrite)
        _run(runner, runner.plan.tasks, workers, report)
        return _merge(job, runner, report)


def build_share(
    config: CorpusConfig,
    output_dir: Path,
    number: int,
    of: int,
    *,
    progress: Report | None = None,
    workers: int | None = None,
    cut: Cut | None = None,
) -> ShareReport:
    """Do share `number` (from 1) of `of`: for jobs side by side, on any node that sees the directory.

    `merge_shares` makes the corpus of them. Raises as `build`.
    """
    if not 1 <= number <= of:
        raise DataPrepError(f"--shard {number}/{of}: shares are numbered from 1 to {of}.")
    job = _prepare(config, output_dir, cut)
    if existing := job.existing():
        counts = existing.counts
        return ShareReport(0, 0, counts.documents, counts.tokens, counts.text_bytes)
    with job.working(share_lock(job.folder, number, of)):
        runner = job.runner()
        tasks = runner.plan.share(number, of)
        _run(runner, tasks, workers, progress or (lambda _: None))
        done = [shard for task in tasks for shard in finished_parts(job.folder, task.number)]
        return ShareReport(
            len(tasks),
            len(runner.plan.tasks),
            sum(shard.documents for shard in done),
            sum(shard.tokens for shard in done),
            sum(shard.text_bytes for shard in done),
        )


def merge_shares(config: CorpusConfig, output_dir: Path, *, progress: Report | None = None) -> Manifest:
    """Make the corpus of the shares that were built; where it is complete already, its manifest.

    Raises `DataPrepError` when a share is missing, and as `build`.
    """
    report = progress or (lambda _: None)
    job = _prepare(config, output_dir, None)
    if existing := job.existing():
        report(_final("unchanged", existing))
        return existing
    if not job.plan_path.exists():
        raise DataPrepError(
            f"{job.prefix}: there are no shares to merge. Build them with `retrieva data build ... --shard i/N`."
        )
    with job.working(whole_build_lock(job.folder)):
        runner = job.runner()
        all_shards(runner.plan, job.folder)
        return _merge(job, runner, report)


def _prepare(config: CorpusConfig, output_dir: Path, cut: Cut | None) -> _Job:
    """Everything that can be refused before anything is written."""
    source = config.open_source()
    files = expand(config.files) if source.reads_files else []
    tokenizer = Tokenizer(config.tokenizer.model)
    if config.append_eod:
        tokenizer.piece_id(config.eod)
    if config.bos is not None:
        tokenizer.piece_id(config.bos)
    contamination = ContaminationIndex.load(config.decontaminate) if config.decontaminate else None
    prefix, folder = corpus_prefix(config, output_dir), build_folder(config, output_dir)
    return _Job(config, prefix, folder, files, tokenizer, contamination, cut or Cut())


@dataclass
class _Job:
    """One corpus to be built, and what is there of it."""

    config: CorpusConfig
    prefix: Path
    folder: Path
    files: list[Path]
    tokenizer: Tokenizer
    contamination: ContaminationIndex | None
    cut: Cut

    @property
    def plan_path(self) -> Path:
        return self.folder / "plan.json"

    def existing(self) -> Manifest | None:
        """The manifest of the complete corpus, where it is of these inputs."""
        contamination = self.contamination.fingerprint if self.contamination else None
        building = self.plan_path.exists()
        found = complete_manifest(
            self.prefix, self.config, self.files, self.tokenizer, contamination, building=building
        )
        if found and building:
            # A kill between the manifest and the end of the build left its shards; or one that replaces the
            # corpus is at work, and holds the lock.
            with suppress(DataPrepError, OSError), whole_build_lock(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
        return found

    @contextmanager
    def working(self, lock: AbstractContextManager[None]) -> Iterator[None]:
        """Hold the lock in the folder of the build; a folder in which nothing was planned goes again."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock:
                yield
                return
        except OSError as error:
            raise DataPrepError(
                f"{error.filename or self.prefix}: {error.strerror or error}. The corpus was not completed, what is "
                "finished is kept; check the space and the permissions of the output directory and run the same "
                "command again."
            ) from None
        finally:
            if self.folder.is_dir() and not self.plan_path.exists():
                self._remove_if_idle()

    def _remove_if_idle(self) -> None:
        try:
            with whole_build_lock(self.folder):
                if not self.plan_path.exists():
                    shutil.rmtree(self.folder, ignore_errors=True)
        except (DataPrepError, OSError):
            return

    def runner(self, overwrite: bool = False) -> TaskRunner:
        """The tasks as they were planned, or planned now.

        With `overwrite` a plan of other inputs makes way with its shards; one of the same inputs is gone on with.
        """
        source = self.config.open_source()
        contamination = self.contamination.fingerprint if self.contamination else None
        made_of = fingerprint(self.config, self.tokenizer, contamination)
        found = inputs_of(self.config, source)
        # Shares start together: one of them plans, the others read.
        with (self.folder / "plan.lock").open("w") as stream:
            # Without locks on this file system every share writes the same plan.
            with suppress(OSError):
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
            plan = self._planned(found, made_of, overwrite)
            if plan is None:
                plan = make_plan(self.config, source, found, made_of, self.cut.task_bytes)
                plan.save(self.plan_path)
        return TaskRunner(
            self.config,
            plan,
            self.folder,
            tokenizer=self.tokenizer,
            contamination=self.contamination,
            cut=self.cut,
        )

    def _planned(self, found: list[Input], made_of: Fingerprint, overwrite: bool) -> BuildPlan | None:
        """The plan that is there, if it is of these inputs."""
        try:
            plan = BuildPlan.load(self.plan_path)
            differing = changes(plan, found, made_of) if plan else []
            if differing:
                lines = "\n".join(f"  {line}" for line in differing)
                raise DataPrepError(
                    f"{self.prefix}: an unfinished build of other inputs is there:\n{lines}\n"
                    "Give --overwrite to begin anew, or choose another name or output directory."
                )
        except DataPrepError:
            if not overwrite:
                raise
            self._forget()
            return None
        return plan

    def _forget(self) -> None:
        """Remove the plan and the shards, but not who holds the lock."""
        for path in self.folder.iterdir():
            if path.suffix != ".lock" and path.name != "lock":
                path.unlink()


def _run(runner: TaskRunner, tasks: list[Task], workers: int | None, report: Report) -> None:
    watch = _Watch(runner, tasks, report)
    run_tasks(runner, watch.left, workers or len(os.sched_getaffinity(0)), watch.update)


class _Watch:
    """Adds up the tasks' progress, and stops a build that can no longer keep to its limit of malformed records."""

    def __init__(self, runner: TaskRunner, tasks: list[Task], report: Report) -> None:
        self._limit, self._report = runner.config.max_malformed, report
        self._tasks: dict[int, TaskProgress] = {}
        self._size = sum(task.bytes for task in tasks)
        self.left: list[Task] = []
        for task in tasks:
            done = finished_parts(runner.folder, task.number)
            if not (done and done[-1].last):
                self.left.append(task)
                continue
            self._tasks[task.number] = TaskProgress(
                task.number,
                task.bytes,
                sum(one.records for one in done),
                sum(one.documents for one in done),
                sum(one.tokens for one in done),
                sum(one.text_bytes for one in done),
                sum(sum(one.malformed.values()) for one in done),
                next((str(problem) for one in done for problem in one.problems), None),
            )
        self._before = Progress("reading")
        self._before = self._state()
        report(self._before)

    def update(self, progress: TaskProgress) -> None:
        """Take the newest figures of one task."""
        self._tasks[progress.task] = progress
        state = self._state()
        self._report(state)
        self._check_malformed(state)

    def _state(self) -> Progress:
        tasks = self._tasks.values()
        return Progress(
            "reading",
            documents=sum(one.documents for one in tasks),
            tokens=sum(one.tokens for one in tasks),
            text_bytes=sum(one.text_bytes for one in tasks),
            malformed=sum(one.malformed for one in tasks),
            source_bytes_done=sum(one.file_bytes for one in tasks),
            source_bytes=self._size,
            source_bytes_before=self._before.source_bytes_done,
            text_bytes_before=self._before.text_bytes,
        )

    def _check_malformed(self, state: Progress) -> None:
        """Stop when the whole corpus, going by a tenth of it or more, could not bring the share down again.

        What decides is the share of the whole corpus, when it is merged; a few records say nothing about it.
        """
        if state.malformed < _EVIDENCE or state.source_bytes_done * 10 < self._size:
            return
        records = sum(one.records for one in self._tasks.values())
        expected = records * self._size / max(state.source_bytes_done, 1)
        if state.malformed > self._limit * expected * 2:
            problems = [one.first_problem for one in self._tasks.values() if one.first_problem]
            raise DataPrepError(too_many_malformed(state.malformed, records, self._limit, problems))


def _merge(job: _Job, runner: TaskRunner, report: Report) -> Manifest:
    state = Progress("merging")
    report(state)
    manifest = merge(runner, job.prefix, lambda tokens: report(replace(state, tokens=tokens)))
    shutil.rmtree(job.folder, ignore_errors=True)
    report(_final("built", manifest))
    return manifest


def _final(stage: Literal["unchanged", "built"], manifest: Manifest) -> Progress:
    size = sum(file.bytes for file in manifest.files)
    counts = manifest.counts
    return Progress(
        stage,
        documents=counts.documents,
        tokens=counts.tokens,
        text_bytes=counts.text_bytes,
        malformed=sum(counts.malformed.values()),
        source_bytes_done=size,
        source_bytes=size,
    )
