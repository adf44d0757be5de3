"""Job scripts say what they are meant to say, whatever a profile or a path holds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.corpus import CorpusConfig, TokenizerConfig
from retrieva_pretrain.bundled import bundled_folder
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.data_scripts import DataScripts
from retrieva_pretrain.launch.profiles import ClusterProfile, load_profile
from retrieva_pretrain.launch.schedulers import open_scheduler
from retrieva_pretrain.launch.scripts import directive, render, words
from retrieva_pretrain.recipe.loading import load_yaml
from tests.launch.approved import assert_is_approved, environment_that_shows

GOLDEN = Path(__file__).parent / "golden"
MakeScripts = Callable[..., DataScripts]

# What a shell, a scheduler or a template would take for its own.
HOSTILE = [
    "a b",
    "it's",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    ";touch pwned",
    "\\",
    "#",
    "%A",
    "{{ x }}",
    "*",
    "日本",
]
PLAIN = "environment={virtual_environment: /shared/venv}"
FULL = {
    "slurm-h100": [
        "account=abc-123",
        "modules=[cuda/12.4, gcc/13]",
        'environment={virtual_environment: "/shared/it\'s my venv"}',
        "environment_variables={OMP_NUM_THREADS: 1, LABEL: '$(touch pwned) \"x\" `y` ; z'}",
        "mail={address: me@example.org, on: [begin, fail]}",
        "data.partition=cpu",
        "data.extra_directives=[--constraint=nvme]",
    ],
    "tsubame4": [
        "group=tga-x",
        "environment={container: '/gs/my image.sif', binds: [/gs, '/a b']}",
        "data.parallel_environment=smp",
        "mail={address: me@example.org}",
        "data.extra_directives=[-p -4]",
    ],
}


@pytest.fixture
def make_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeScripts:
    monkeypatch.chdir(tmp_path)

    def make(profile: ClusterProfile, output: Path, **changes: Any) -> DataScripts:
        config = CorpusConfig(
            name="ja_cc", source="text", files=["raw/*.txt"], tokenizer=TokenizerConfig(model="t.model")
        )
        return DataScripts(config, output, profile, open_scheduler(profile), shards=12, number=3, **changes)

    return make


@pytest.mark.parametrize("cluster", ["slurm-h100", "tsubame4"])
@pytest.mark.parametrize("kind", ["plain", "full"])
def test_scripts_are_as_they_were_read_and_approved(
    cluster: str, kind: str, make_scripts: MakeScripts, tmp_path: Path
) -> None:
    scripts = make_scripts(
        load_profile(cluster, FULL[cluster] if kind == "full" else [PLAIN]), Path("/data/out")
    )
    for path in (scripts.array, scripts.merge):
        text = scripts.files[path].replace(str(tmp_path), "/work")
        assert_is_approved(text, GOLDEN / f"{cluster}-{kind}-{path.name.removeprefix('003-')}")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("cluster", ["slurm-h100", "tsubame4"])
def test_a_script_gives_the_program_its_words_whatever_they_hold(
    cluster: str, name: str, make_scripts: MakeScripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, venv = tmp_path / f"here {name}", tmp_path / f"venv {name}"
    here.mkdir()
    environment_that_shows(venv, tmp_path / "stub", "LABEL")
    monkeypatch.chdir(here)
    profile = load_profile(cluster).model_dump()
    profile |= {"environment": {"virtual_environment": str(venv)}, "environment_variables": {"LABEL": name}}
    # The log's path has rules of its own, see below; the corpus file is named from the output directory.
    scripts = make_scripts(ClusterProfile.model_validate(profile), tmp_path / "out")
    for path in (scripts.array, scripts.merge):
        script = tmp_path / path.name
        script.write_text(scripts.files[path])
        done = subprocess.run(
            ["bash", script],
            env={"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "7", "SGE_TASK_ID": "7"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        arguments = ["-m", "retrieva_pretrain", "data", "build" if path == scripts.array else "merge"]
        arguments += [str(scripts.corpus), "--output", str(tmp_path / "out")]
        if path == scripts.array:
            arguments += ["--workers", str(scripts.profile.data.cpus_per_task), "--shard", "7/12"]
        assert done.stdout.splitlines()[1:] == [str(here), name, *arguments]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("cluster", ["slurm-h100", "tsubame4"])
@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x00b", "a\u2028b", 'a"b', "a\\b", "a`b"])
def test_a_path_that_no_directive_can_hold_is_refused(
    cluster: str, name: str, make_scripts: MakeScripts, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match=r"cannot stand in a job script|takes a backslash"):
        _ = make_scripts(load_profile(cluster), tmp_path / name).files


def test_a_script_outside_an_array_says_how_it_is_submitted(
    make_scripts: MakeScripts, tmp_path: Path
) -> None:
    for cluster, way in {"slurm-h100": "sbatch --array=1-12", "tsubame4": "qsub -t 1-12"}.items():
        scripts = make_scripts(load_profile(cluster), tmp_path)
        done = subprocess.run(
            ["bash", "-c", scripts.files[scripts.array]], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert way in done.stderr


def test_ones_own_template_goes_before_the_bundled_one(make_scripts: MakeScripts, tmp_path: Path) -> None:
    bundled = (bundled_folder("slurm") / "data_job.sbatch").read_text()
    (tmp_path / "data_job.sbatch").write_text(
        bundled.replace("set -eo pipefail", "set -eo pipefail\nulimit -c 0")
    )
    scripts = make_scripts(load_profile("slurm-h100", [f"templates={tmp_path}"]), tmp_path)
    assert "\nulimit -c 0\ncd " in scripts.files[scripts.merge]
    with pytest.raises(LaunchError, match="templates: there is no folder"):
        _ = make_scripts(load_profile("slurm-h100", ["templates=nowhere"]), tmp_path).files


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("echo {{ log }}", "without a filter"),
        ("echo {{ log | upper }}", "without a filter"),
        ("echo {{ nothing | sh }}", "'nothing' is undefined"),
        ("echo {{ nothing }}", "'nothing' is undefined"),
        ("\n{% if %}", "data_job.sbatch:2:"),
        ("{{ 1 + log }}", "data_job.sbatch: unsupported operand"),
    ],
)
def test_a_faulty_template_is_refused(template: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data_job.sbatch").write_text(template)
    profile = load_profile("slurm-h100", [f"templates={tmp_path}"])
    with pytest.raises(LaunchError) as refused:
        render("slurm/data_job.sbatch", profile, {"log": "$(x)"})
    assert message in str(refused.value)


def test_the_corpus_that_jobs_read_is_the_one_that_was_resolved(
    make_scripts: MakeScripts, tmp_path: Path
) -> None:
    scripts = make_scripts(load_profile("slurm-h100"), tmp_path)
    (tmp_path / "copy.yaml").write_text(scripts.files[scripts.corpus])
    assert load_yaml(CorpusConfig, tmp_path / "copy.yaml") == scripts.config


def test_filters() -> None:
    assert directive("plain-1/x_y") == "plain-1/x_y"
    assert directive("a b") == '"a b"'
    assert directive("a#b") == '"a#b"'
    assert words(["a b", "$x"]) == "'a b' '$x'"
