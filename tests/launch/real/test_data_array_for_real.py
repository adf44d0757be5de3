"""A corpus built by a job array is the corpus built here, and what fails is submitted again alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from data_prep.build import build
from data_prep.corpus import CorpusConfig
from retrieva_pretrain.bundled import bundled_folder
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.data_array import Submission, jobs_folder, submit_data_build
from retrieva_pretrain.launch.profiles import ClusterProfile, load_profile
from retrieva_pretrain.launch.records import read_records
from retrieva_pretrain.launch.schedulers import JobState, open_scheduler
from retrieva_pretrain.recipe.loading import dump_yaml
from tests.waiting import wait_until

# One after the other: each starts servers of its own and fills the machine.
pytestmark = pytest.mark.xdist_group("schedulers")

REPOSITORY = Path(__file__).resolve().parents[3]
PROFILES = Path(__file__).parent / "profiles"
# Jobs run these sources; Grid Engine passes no environment on.
THIS_CODE = [f"environment_variables={{PYTHONPATH: {REPOSITORY}}}"]


class Cluster(Protocol):
    def ask(self, *command: str) -> str: ...


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("small.*")}


def settled(profile: ClusterProfile, submission: Submission) -> dict[int | None, JobState]:
    """Wait until every job of a submission has ended; the states of the array's tasks and, as None, the merge's."""
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

    wait_until("the jobs' end", all_ended)
    return found


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
def test_an_array_of_which_one_task_failed_and_ran_again_gives_the_bytes_of_a_local_build(
    kind: str,
    request: pytest.FixtureRequest,
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
def test_the_command_submits_what_the_file_said_then_whatever_becomes_of_it(
    slurm: Cluster, corpus: CorpusConfig, tmp_path: Path
) -> None:
    changed = corpus.model_copy(update={"append_eod": False})
    build(changed, tmp_path / "here")
    (tmp_path / "small.yaml").write_text(dump_yaml(corpus))
    options = ["--output", "there", "--cluster", str(PROFILES / "slurm.yaml"), "--array", "2"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "retrieva_pretrain",
            "data",
            "build",
            "small.yaml",
            *options,
            "append_eod=false",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    (tmp_path / "small.yaml").write_text("edited: since")
    assert done.returncode == 0, done.stderr
    assert "small: tasks 1-2 of 2 are submitted as job" in done.stdout
    assert "squeue --jobs=" in done.stdout
    wait_until("the corpus", (tmp_path / "there" / "small.manifest.json").exists)
    assert files(tmp_path / "there") == files(tmp_path / "here")


@pytest.mark.slow
def test_what_slurm_refuses_is_said_in_its_words_and_leaves_nothing_in_the_queue(
    slurm: Cluster, corpus: CorpusConfig, tmp_path: Path
) -> None:
    profile = load_profile(str(PROFILES / "slurm.yaml"), ["data.partition=nowhere"])
    with pytest.raises(LaunchError, match="invalid partition specified"):
        submit_data_build(corpus, tmp_path / "out", profile, 3)
    assert not (jobs_folder(corpus, tmp_path / "out") / "jobs.jsonl").exists()
    with pytest.raises(LaunchError, match=r"Invalid job array specification\nIndices end below MaxArraySize"):
        submit_data_build(corpus, tmp_path / "out", load_profile(str(PROFILES / "slurm.yaml")), 2000)
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
