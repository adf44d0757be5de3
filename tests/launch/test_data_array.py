"""A corpus built by a job array is the corpus built here, and what fails is submitted again alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from data_prep.build import build
from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.errors import DataPrepError
from data_prep.tokenizer import Tokenizer
from retrieva_pretrain.bundled import bundled_folder
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.data_array import Submission, jobs_folder, parse_indices, submit_data_build
from retrieva_pretrain.launch.profiles import ClusterProfile, load_profile
from retrieva_pretrain.launch.records import JobRecord, append_record, read_records
from retrieva_pretrain.launch.schedulers import JobState, open_scheduler
from retrieva_pretrain.launch.schedulers.base import range_text

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILES = Path(__file__).parent / "profiles"
# Jobs run these sources; Grid Engine passes no environment on.
THIS_CODE = [f"environment_variables={{PYTHONPATH: {REPOSITORY}}}"]


Settled = Callable[[ClusterProfile, Submission], dict[int | None, JobState]]


class Cluster(Protocol):
    def ask(self, *command: str) -> str: ...


@pytest.fixture
def corpus(tmp_path: Path, small_tokenizer: Tokenizer) -> CorpusConfig:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(7):
        texts = [f"あいう {number} かきく {line} abc" for line in range(30 + number)]
        (raw / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return CorpusConfig(
        name="small",
        source="jsonl",
        files=[f"{raw}/*.jsonl"],
        tokenizer=TokenizerConfig(model=str(small_tokenizer.path)),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("small.*")}


@pytest.fixture
def settled(wait_for: Callable[..., None]) -> Settled:
    """Waits until every job of a submission has ended: the states of the array's tasks and, as None, the merge's."""

    def settled(profile: ClusterProfile, submission: Submission) -> dict[int | None, JobState]:
        scheduler = open_scheduler(profile)
        assert submission.merge_job_id is not None
        jobs = [*submission.array_job_ids, submission.merge_job_id]
        found: dict[int | None, JobState] = {}

        def all_ended() -> bool:
            states = scheduler.states(jobs)
            found.clear()
            for job in jobs:
                found.update(states.get(job, {}))
            return set(jobs) <= set(states) and not any(state.is_active for state in found.values())

        wait_for("the jobs' end", all_ended, 120)
        return found

    return settled


def logs(submission: Submission) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text()}" for path in sorted((submission.folder / "logs").iterdir())
    )


def failing_once(profile: ClusterProfile, folder: Path, index: int) -> ClusterProfile:
    """A profile whose template lets one task of the array fail until the file `mended` is there."""
    folder.mkdir()
    name = {"slurm": "data_job.sbatch", "grid_engine": "data_job.sh"}[profile.scheduler]
    text = (bundled_folder(profile.scheduler) / name).read_text()
    stop = f'if [ "$share" = {index} ] && [ ! -e "{folder}/mended" ]; then exit 7; fi\nexec '
    (folder / name).write_text(text.replace("exec ", stop, 1))
    return profile.model_copy(update={"templates": str(folder)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slurm", "grid_engine"])
def test_an_array_of_which_one_task_failed_and_ran_again_gives_the_bytes_of_a_local_build(
    kind: str,
    request: pytest.FixtureRequest,
    settled: Settled,
    corpus: CorpusConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster: Cluster = request.getfixturevalue(kind)
    # Left over from a job around this one; sbatch would take them before the script's own directives.
    for name, value in {
        "SBATCH_PARTITION": "nowhere",
        "SBATCH_ARRAY_INX": "5",
        "SLURM_ARRAY_TASK_ID": "9",
    }.items():
        monkeypatch.setenv(name, value)
    build(corpus, tmp_path / "here")
    output = tmp_path / "there (日本)"
    profile = failing_once(
        load_profile(str(PROFILES / f"{kind}.yaml"), THIS_CODE), tmp_path / "templates", index=2
    )

    first = submit_data_build(corpus, output, profile, 3)
    states = settled(profile, first)
    assert states == {1: JobState.DONE, 2: JobState.FAILED, 3: JobState.DONE, None: JobState.FAILED}, logs(
        first
    )
    if kind == "slurm":
        nodes = cluster.ask(
            "squeue", "-h", "-t", "all", "-r", "-j", first.array_job_ids[0], "-o", "%N"
        ).split()
        assert set(nodes) == {"n1", "n2"}
    assert not files(output)

    (tmp_path / "templates" / "mended").touch()
    again = submit_data_build(corpus, output, profile, 3, only=[2])
    assert settled(profile, again) == {2: JobState.DONE, None: JobState.DONE}, logs(again)
    assert files(output) == files(tmp_path / "here")

    records = read_records(first.folder / "jobs.jsonl")
    assert [(r.submission, r.kind, r.indices, r.job_id) for r in records] == [
        (1, "array", [1, 2, 3], first.array_job_ids[0]),
        (1, "merge", [], first.merge_job_id),
        (2, "array", [2], again.array_job_ids[0]),
        (2, "merge", [], again.merge_job_id),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "later"), [("slurm", "--begin=now+1hour"), ("grid_engine", "-a 203712312359")]
)
def test_work_that_waits_or_runs_is_not_submitted_twice(
    kind: str, later: str, request: pytest.FixtureRequest, corpus: CorpusConfig, tmp_path: Path
) -> None:
    cluster: Cluster = request.getfixturevalue(kind)
    profile = load_profile(str(PROFILES / f"{kind}.yaml"), [*THIS_CODE, f"data.extra_directives=[{later}]"])
    scheduler = open_scheduler(profile)
    first = submit_data_build(corpus, tmp_path / "out", profile, 3)
    array, merge = first.array_job_ids[0], str(first.merge_job_id)
    for only in (None, [2]):
        with pytest.raises(LaunchError, match=rf"waits or runs already: tasks (1-3|2) as job {array}"):
            submit_data_build(corpus, tmp_path / "out", profile, 3, only=only)
    cluster.ask(*(["scancel", f"{array}_2"] if kind == "slurm" else ["qdel", array, "-t", "2"]))

    again = submit_data_build(corpus, tmp_path / "out", profile, 3, only=[2])
    # The merge before would have come too early, or never; the one now waits for both arrays.
    assert again.merge_job_id is not None
    new, tasks = again.merge_job_id, again.array_job_ids[0]
    states = scheduler.states([array, merge, tasks, new])
    assert not any(state.is_active for state in states.get(merge, {}).values())
    assert {index for index, state in states[array].items() if state.is_active} == {1, 3}
    assert states[tasks] == {2: JobState.PENDING}
    assert states[new] == {None: JobState.PENDING}
    if kind == "slurm":
        waits_for = cluster.ask("squeue", "-h", "-j", new, "-o", "%E")
        assert f"afterok:{tasks}_" in waits_for
        assert f"afterany:{array}_" in waits_for
    else:
        waits_for = re.findall(r"jid_predecessor_list.*?:\s*(\S+)", cluster.ask("qstat", "-j", new))
        assert {array, tasks} == set(",".join(waits_for).split(","))
    scheduler.cancel([array, tasks, new])


@pytest.mark.slow
def test_what_slurm_refuses_is_said_in_its_words_and_leaves_nothing_in_the_queue(
    slurm: Cluster, corpus: CorpusConfig, tmp_path: Path
) -> None:
    profile = load_profile(str(PROFILES / "slurm.yaml"), ["data.partition=nowhere"])
    with pytest.raises(LaunchError, match="invalid partition specified"):
        submit_data_build(corpus, tmp_path / "out", profile, 3)
    # The merge alone is refused: the array that was taken already is cancelled.
    folder = tmp_path / "templates"
    folder.mkdir()
    text = (bundled_folder("slurm") / "data_job.sbatch").read_text()
    bad = text.replace("set -eo", "{% if not array %}\n#SBATCH --partition=nowhere\n{% endif %}\nset -eo", 1)
    (folder / "data_job.sbatch").write_text(bad)
    mixed = load_profile(
        str(PROFILES / "slurm.yaml"), [f"templates={folder}", "data.extra_directives=[--hold]"]
    )
    with pytest.raises(LaunchError, match="invalid partition specified"):
        submit_data_build(corpus, tmp_path / "out", mixed, 3)
    (record,) = read_records(jobs_folder(corpus, tmp_path / "out") / "jobs.jsonl")
    assert set(open_scheduler(mixed).states([record.job_id])[record.job_id].values()) == {JobState.FAILED}


@pytest.mark.slow
def test_jobs_that_slurm_has_forgotten_have_no_state(slurm: Cluster) -> None:
    assert open_scheduler(load_profile("slurm-h100")).states(["999999"]) == {}


@pytest.mark.parametrize(
    ("cluster", "commands"),
    [
        (
            "slurm-h100",
            [
                "sbatch --parsable --array=2-3,7 {array}",
                "--dependency=afterok:ARRAY_JOB_ID --kill-on-invalid-dep=yes {merge}",
            ],
        ),
        (
            "tsubame4",
            [
                "qsub -terse -t 2-3 {array}",
                "qsub -terse -t 7-7 {array}",
                "-hold_jid ARRAY_JOB_ID_1,ARRAY_JOB_ID_2 {merge}",
            ],
        ),
    ],
)
def test_a_dry_run_shows_the_scripts_and_the_commands_and_writes_nothing(
    cluster: str, commands: list[str], corpus: CorpusConfig, tmp_path: Path
) -> None:
    profile, output = load_profile(cluster), tmp_path / "out"
    shown = submit_data_build(corpus, output, profile, 9, dry_run=True)
    assert not output.exists()
    assert shown.array_job_ids == []
    for part in ("#!/bin/bash", "--shard", "data merge", "name: small", "1-9"):
        assert part in shown.message
    # A part of an array is shown where the array was submitted.
    remember(corpus, output, profile)
    again = submit_data_build(corpus, output, profile, 9, only=[2, 3, 7], dry_run=True)
    suffix = open_scheduler(profile).script_suffix
    for command in commands:
        names = {kind: again.folder / f"002-{kind}{suffix}" for kind in ("array", "merge")}
        assert command.format(**names) in again.message
    assert "--array=1-9" in again.message or "-t 1-9" in again.message


def remember(corpus: CorpusConfig, output: Path, profile: ClusterProfile, **changes: Any) -> None:
    """Write the record of an array of nine tasks."""
    folder = jobs_folder(corpus, output)
    folder.mkdir(parents=True, exist_ok=True)
    fields: Mapping[str, Any] = {
        "time": "2024-01-01T00:00:00+00:00",
        "submission": 1,
        "kind": "array",
        "scheduler": profile.scheduler,
        "job_id": "1",
        "shards": 9,
        "script": "001-array.sbatch",
        "command": [],
    }
    append_record(folder / "jobs.jsonl", JobRecord.model_validate({**fields, **changes}))


def test_tasks_of_another_array_are_not_submitted_again(corpus: CorpusConfig, tmp_path: Path) -> None:
    from retrieva_pretrain.recipe.loading import dump_yaml

    profile = load_profile("slurm-h100")
    with pytest.raises(LaunchError, match="knows of no array of small"):
        submit_data_build(corpus, tmp_path, profile, 9, only=[1], dry_run=True)
    remember(corpus, tmp_path, profile)
    with pytest.raises(LaunchError, match="submitted with --array 9, not 8"):
        submit_data_build(corpus, tmp_path, profile, 8, only=[1], dry_run=True)
    other = corpus.model_copy(update={"append_eod": False})
    (jobs_folder(corpus, tmp_path) / "001-corpus.yaml").write_text(dump_yaml(other))
    with pytest.raises(LaunchError, match=r"submitted with another small .*001-corpus\.yaml"):
        submit_data_build(corpus, tmp_path, profile, 9, only=[1], dry_run=True)
    (jobs_folder(corpus, tmp_path) / "001-corpus.yaml").write_text(dump_yaml(corpus))
    submit_data_build(corpus, tmp_path, profile, 9, only=[1], dry_run=True)


def test_what_would_only_fail_in_the_jobs_is_refused_before(
    corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(error: type[Exception], message: str, overrides: list[str], **changes: Any) -> None:
        config = corpus.model_copy(update=changes)
        with pytest.raises(error, match=message):
            submit_data_build(config, tmp_path / "out", load_profile("slurm-h100", overrides), 3)
        assert not (tmp_path / "out").exists()

    refused(DataPrepError, "nothing.jsonl", [], files=[str(tmp_path / "nothing.jsonl")])
    refused(DataPrepError, "no.model", [], tokenizer=TokenizerConfig(model=str(tmp_path / "no.model")))
    refused(LaunchError, "holds no bin/activate", [f"environment={{virtual_environment: {tmp_path}}}"])
    refused(LaunchError, "there is no image", [f"environment={{container: {tmp_path}/x.sif}}"])
    with pytest.raises(LaunchError, match="cannot stand in a job script's directives"):
        submit_data_build(corpus, tmp_path / 'a"b', load_profile("slurm-h100"), 3)
    assert not (tmp_path / 'a"b').exists()
    with pytest.raises(LaunchError, match="has no scheduler to submit jobs to; without --cluster"):
        submit_data_build(corpus, tmp_path / "out", load_profile("local"), 3)
    with pytest.raises(LaunchError, match="--array 0: give the number of tasks"):
        submit_data_build(corpus, tmp_path / "out", load_profile("slurm-h100"), 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="sbatch is not on the PATH; run this where the cluster takes jobs"):
        submit_data_build(corpus, tmp_path / "out", load_profile("slurm-h100"), 3)


def test_indices_are_written_as_people_and_slurm_write_them() -> None:
    assert parse_indices("3,7, 9-12 ,3", 12) == [3, 7, 9, 10, 11, 12]
    assert range_text([12, 3, 7, 9, 10, 11]) == "3,7,9-12"
    for text in ("", "0", "13", "3-2", "a", "1,,2", "-1", "1-13", "1;2"):
        with pytest.raises(LaunchError, match="name tasks from 1 to 12"):
            parse_indices(text, 12)


def test_a_torn_record_is_left_out_and_the_next_stands_on_a_line_of_its_own(
    corpus: CorpusConfig, tmp_path: Path
) -> None:
    profile = load_profile("slurm-h100")
    remember(corpus, tmp_path, profile)
    path = jobs_folder(corpus, tmp_path) / "jobs.jsonl"
    with path.open("a") as stream:
        stream.write('{"time": "2024-')
    remember(corpus, tmp_path, profile, submission=2)
    assert [record.submission for record in read_records(path)] == [1, 2]
    path.write_text("{}\n")
    with pytest.raises(LaunchError, match=r"jobs\.jsonl:1: is no record"):
        read_records(path)
