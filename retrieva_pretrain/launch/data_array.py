"""`retrieva data build --cluster C --array N`: a corpus built by the tasks of a job array, and a merge after them.

What is submitted, and with what, stays in `DIR/.NAME.jobs/`: the corpus as it was resolved, the scripts, the logs,
and a line in `jobs.jsonl` for every job.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.corpus import CorpusConfig
from data_prep.sources.files import expand
from data_prep.tokenizer import Tokenizer
from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.data_scripts import DataScripts, corpus_file, jobs_folder
from retrieva_pretrain.launch.profiles import ClusterProfile
from retrieva_pretrain.launch.records import JobRecord, append_record, now, read_records, submitting
from retrieva_pretrain.launch.schedulers import JobState, Scheduler, open_scheduler
from retrieva_pretrain.launch.schedulers.base import range_text
from retrieva_pretrain.launch.scripts import check_environment
from retrieva_pretrain.recipe.loading import load_yaml

__all__ = ["Submission", "jobs_folder", "parse_indices", "submit_data_build"]


@dataclass(frozen=True)
class Submission:
    """What was submitted, or in a dry run would be."""

    folder: Path
    """`DIR/.NAME.jobs`."""
    array_job_ids: list[str]
    """Of Grid Engine one for each unbroken range of tasks; none in a dry run."""
    merge_job_id: str | None
    message: str
    """What to tell the user."""


def parse_indices(text: str, shards: int) -> list[int]:
    """Return the numbers that a text such as `3,7,9-12` names.

    Raises:
        LaunchError: it is written in another way, or names what is not from 1 to `shards`.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= shards:
            raise LaunchError(f"--only {text}: name tasks from 1 to {shards}, such as 3 or 3,7 or 3-5")
        found |= set(range(first, last + 1))
    return sorted(found)


def submit_data_build(
    config: CorpusConfig,
    output: Path,
    profile: ClusterProfile,
    shards: int,
    *,
    only: Sequence[int] | None = None,
    dry_run: bool = False,
) -> Submission:
    """Submit an array of `shards` tasks that build a corpus, and the merge that waits for them.

    Args:
        config: the corpus.
        output: the directory that the corpus is written to; every node must see it.
        profile: the cluster.
        shards: number of the array's tasks, each of which builds one share.
        only: the indices of tasks that are submitted again, with a new merge. The corpus and `shards` must be
            what the array was submitted with.
        dry_run: submit and write nothing; the message holds the scripts and the commands.

    Raises:
        LaunchError: the cluster has no scheduler, the scheduler refuses, or jobs of this corpus are under way.
        DataPrepError: the corpus's files or tokenizer are not there.
    """
    if not 1 <= shards <= 10**6:
        raise LaunchError(f"--array {shards}: give the number of tasks, at least 1")
    scheduler = open_scheduler(profile)
    if config.open_source().reads_files:
        expand(config.files)
    Tokenizer(config.tokenizer.model)
    output = Path(output).absolute()
    folder = jobs_folder(config, output)
    records = read_records(folder / "jobs.jsonl")
    if only is not None:
        _check_same_array(config, folder, shards, records)
    rehearsal = _rehearse(_scripts(config, output, profile, scheduler, shards, records), only)
    if dry_run:
        return rehearsal
    check_environment(profile)
    with submitting(folder):
        records = read_records(folder / "jobs.jsonl")
        scripts = _scripts(config, output, profile, scheduler, shards, records)
        after_end = _make_way(scripts, records, only)
        return _submit(scripts, only, after_end)


def _scripts(
    config: CorpusConfig,
    output: Path,
    profile: ClusterProfile,
    scheduler: Scheduler,
    shards: int,
    records: Sequence[JobRecord],
) -> DataScripts:
    number = 1 + max((record.submission for record in records), default=0)
    return DataScripts(config, output, profile, scheduler, shards, number)


def _check_same_array(config: CorpusConfig, folder: Path, shards: int, records: Sequence[JobRecord]) -> None:
    """Refuse to submit tasks of an array that is not the one before."""
    arrays = [record for record in records if record.kind == "array"]
    if not arrays:
        raise LaunchError(
            f"--only: {folder} knows of no array of {config.name}; submit the whole one, what is built is kept"
        )
    last = arrays[-1]
    if last.shards != shards:
        raise LaunchError(
            f"--only: the array was submitted with --array {last.shards}, not {shards}; with another number of"
            " tasks every task has another share"
        )
    submitted = corpus_file(folder, last.submission)
    if submitted.is_file() and load_yaml(CorpusConfig, submitted) != config:
        raise LaunchError(
            f"--only: the array was submitted with another {config.name} ({submitted}); give the file and the"
            " key=value of then"
        )


def _make_way(scripts: DataScripts, records: Sequence[JobRecord], only: Sequence[int] | None) -> list[str]:
    """Refuse to submit what is under way, and cancel a merge that would come too early.

    Returns earlier arrays with other tasks under way, which the new merge must wait for.
    """
    scheduler = scripts.scheduler
    mine = [record for record in records if record.scheduler == scripts.profile.scheduler]
    states = scheduler.states([record.job_id for record in mine])
    wanted = set(only) if only is not None else set(range(1, scripts.shards + 1))
    arrays, merges, clashes, clashing_ids = [], [], [], []
    for record in mine:
        tasks = {index: state for index, state in states.get(record.job_id, {}).items() if state.is_active}
        if not tasks:
            continue
        if record.kind == "merge":
            if only is None or JobState.RUNNING in tasks.values():
                clashes.append(f"the merge as job {record.job_id}")
                clashing_ids.append(record.job_id)
            else:
                merges.append(record.job_id)
        elif clashing := [index for index in tasks if index in wanted]:
            clashes.append(f"tasks {range_text(clashing)} as job {record.job_id}")
            clashing_ids.append(record.job_id)
        else:
            arrays.append(record.job_id)
    if clashes:
        raise LaunchError(
            f"{scripts.config.name}: waits or runs already: {', '.join(clashes)}. Wait for it"
            f" (`{scheduler.how_to_look(clashing_ids)}`) or end it (`{scheduler.how_to_cancel(clashing_ids)}`)"
        )
    if merges:
        scheduler.cancel(merges)
    return arrays


def _submit(scripts: DataScripts, only: Sequence[int] | None, after_end: Sequence[str]) -> Submission:
    """Write the files, submit array and merge, and record both."""
    scheduler, arrays = scripts.scheduler, []
    for path, text in scripts.files.items():
        write_whole(path, text.encode())
    try:
        for indices in _batches(scripts, only):
            command = scheduler.command(scripts.array, indices=indices)
            arrays.append(scheduler.submit(command))
            named = indices if indices is not None else range(1, scripts.shards + 1)
            _record(scripts, "array", arrays[-1], command, indices=list(named))
        command = scheduler.command(scripts.merge, after_success=arrays, after_end=after_end)
        merge = scheduler.submit(command)
    except (LaunchError, KeyboardInterrupt):
        # An array without its merge would look as if all were well.
        if arrays:
            scheduler.cancel(arrays)
        raise
    _record(scripts, "merge", merge, command, after=[*arrays, *after_end])
    return Submission(scripts.folder, arrays, merge, _told(scripts, arrays, merge, only))


def _rehearse(scripts: DataScripts, only: Sequence[int] | None) -> Submission:
    """Return what would be written and run, with a word in place of the ids that only the scheduler gives."""
    scheduler, batches = scripts.scheduler, _batches(scripts, only)
    ids = ["ARRAY_JOB_ID"] if len(batches) == 1 else [f"ARRAY_JOB_ID_{i + 1}" for i in range(len(batches))]
    commands = [scheduler.command(scripts.array, indices=indices) for indices in batches]
    commands.append(scheduler.command(scripts.merge, after_success=ids))
    parts = [f"==> {path} <==\n{text}" for path, text in scripts.files.items()]
    parts.append("==> commands <==\n" + "\n".join(map(shlex.join, commands)) + "\n")
    return Submission(
        scripts.folder, [], None, "\n".join([*parts, "A dry run: nothing was written or submitted."])
    )


def _batches(scripts: DataScripts, only: Sequence[int] | None) -> list[list[int] | None]:
    return [None] if only is None else [*scripts.scheduler.batches(only)]


def _record(
    scripts: DataScripts,
    kind: str,
    job_id: str,
    command: Sequence[str],
    *,
    indices: Sequence[int] = (),
    after: Sequence[str] = (),
) -> None:
    record = JobRecord(
        time=now(),
        submission=scripts.number,
        kind=kind,
        scheduler=scripts.profile.scheduler,
        job_id=job_id,
        indices=list(indices),
        shards=scripts.shards,
        after=list(after),
        script=Path(command[-1]).name,
        command=list(command),
    )
    append_record(scripts.folder / "jobs.jsonl", record)


def _told(scripts: DataScripts, arrays: list[str], merge: str, only: Sequence[int] | None) -> str:
    tasks = range_text(only if only is not None else range(1, scripts.shards + 1))
    scheduler, jobs = scripts.scheduler, [*arrays, merge]
    logs = shlex.quote(str(scripts.folder / "logs"))
    return (
        f"{scripts.config.name}: tasks {tasks} of {scripts.shards} are submitted as job {', '.join(arrays)},"
        f" the merge after them as job {merge}.\n"
        f"  {scheduler.how_to_look(jobs)}\n"
        f"  tail -n 3 {logs}/{scripts.number:03}-*\n"
        "Should tasks fail, the same command with --only 3,7 submits those again, and a new merge."
        f" To end the work: {scheduler.how_to_cancel(jobs)}"
    )
