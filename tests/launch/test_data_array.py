"""What is submitted for a job array, and what is refused before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.corpus import CorpusConfig, TokenizerConfig
from data_prep.errors import DataPrepError
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.data_array import jobs_folder, parse_indices, submit_data_build
from retrieva_pretrain.launch.profiles import ClusterProfile, load_profile
from retrieva_pretrain.launch.records import JobRecord, append_record, read_records
from retrieva_pretrain.launch.schedulers import open_scheduler
from retrieva_pretrain.launch.schedulers.base import range_text


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
    path.write_bytes(b'{"\xff')
    assert read_records(path) == []
    with pytest.raises(LaunchError, match="cannot be read"):
        read_records(path.parent)
    path.write_text("{}\n")
    with pytest.raises(LaunchError, match=r"jobs\.jsonl:1: is no record"):
        read_records(path)
