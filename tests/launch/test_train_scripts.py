"""The script of a training job is what it was approved as, and takes nothing of a value for its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieva_pretrain.bundled import bundled_folder
from retrieva_pretrain.errors import LaunchError, RecipeError
from retrieva_pretrain.launch.profiles import ClusterProfile, load_profile
from retrieva_pretrain.launch.schedulers import scheduler_named
from retrieva_pretrain.launch.spec import JobSpec, read_spec
from retrieva_pretrain.launch.train import launch_run
from retrieva_pretrain.launch.train_scripts import TrainScripts
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe
from tests.launch.approved import assert_is_approved, environment_that_shows

GOLDEN = Path(__file__).parent / "golden_training"
PLAIN = "environment={virtual_environment: /shared/venv}"
FULL = {
    "slurm-h100": [
        "partition=gpu",
        "account=abc-123",
        "gpu_type=h100",
        "cpus_per_node=96",
        "memory_per_node=1T",
        "modules=[cuda/12.4]",
        "environment={container: '/shared/my image.sif', binds: [/data]}",
        "environment_variables={NCCL_SOCKET_IFNAME: 'ib0,ib1', LABEL: '$(touch pwned) \"x\" `y` ; z'}",
        "scratch=/local",
        "mail={address: me@example.org, on: [end, fail]}",
        "extra_directives=[--exclude=bad01]",
        "training={goes_on: follow_up, leave_before_end: '00:20:00', rendezvous_address: node-ib}",
    ],
    "tsubame4": [
        "group=tga-x",
        'environment={virtual_environment: "/shared/it\'s my venv"}',
        "modules=[cuda/12.4]",
        "mail={address: me@example.org}",
        "extra_directives=[-p -4]",
        "training={goes_on: follow_up, parallel_environment: mpi}",
    ],
}
HOSTILE = [
    "a b",
    "it's",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    ";touch pwned",
    "\\",
    "#",
    "{{ x }}",
    "*",
    "日本",
]
MakeScripts = Callable[..., TrainScripts]


@pytest.fixture
def make_scripts(
    small_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeScripts:
    monkeypatch.chdir(tmp_path)

    def make(profile: ClusterProfile, nodes: int = 2, runs_dir: Path | None = None) -> TrainScripts:
        recipe = small_recipe().model_copy(update={"runs_dir": str(runs_dir or tmp_path / "runs")})
        scheduler = scheduler_named(profile.scheduler, profile.group)
        return TrainScripts(recipe, profile, scheduler, nodes, profile.processes_per_node, number=3)

    return make


@pytest.mark.parametrize(
    ("cluster", "kind"),
    [
        ("slurm-h100", "plain"),
        ("slurm-h100", "full"),
        ("tsubame4", "plain"),
        ("tsubame4", "full"),
        ("local", "plain"),
    ],
)
def test_scripts_are_as_they_were_read_and_approved(
    cluster: str, kind: str, make_scripts: MakeScripts, tmp_path: Path
) -> None:
    profile = load_profile(cluster, FULL[cluster] if kind == "full" else [PLAIN])
    scripts = make_scripts(profile, 1 if cluster == "local" else 2)
    assert scripts.files == make_scripts(profile, 1 if cluster == "local" else 2).files
    text = (
        scripts.files[scripts.script]
        .replace(str(tmp_path), "/work")
        .replace(sys.executable, "/usr/bin/python3")
    )
    assert_is_approved(text, GOLDEN / f"{cluster}-{kind}{scripts.script.suffix}")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("cluster", ["slurm-h100", "tsubame4", "local"])
def test_a_script_gives_the_program_its_words_whatever_they_hold(
    cluster: str, name: str, make_scripts: MakeScripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, venv = tmp_path / f"here {name}", tmp_path / f"venv {name}"
    here.mkdir()
    environment_that_shows(venv, tmp_path / "stub", "LABEL", "TMPDIR")
    content = load_profile(cluster).model_dump()
    content |= {"environment": {"virtual_environment": str(venv)}, "scratch": f"/tmp/{name}"}
    content |= {"environment_variables": {"LABEL": name}}
    # The log's path has rules of its own; the working directory and the other paths have none.
    scripts = make_scripts(ClusterProfile.model_validate(content), 1)
    monkeypatch.chdir(here)
    script = tmp_path / "script"
    script.write_text(scripts._script())
    variables = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1", "JOB_ID": "1"}
    done = subprocess.run(
        ["bash", script],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    jobs = tmp_path / "runs" / "small" / "jobs"
    said = [line for line in done.stdout.splitlines() if not line.startswith("retrieva-small: job")]
    program, settings = str(jobs / "003-code" / "retrieva.py"), str(jobs / "003-job.json")
    start = [str(here), name, f"/tmp/{name}", program, "job", settings, "--"]
    assert said[: len(start)] == start
    assert said[-4:] == ["python", program, "node", settings]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("cluster", ["slurm-h100", "tsubame4"])
@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x00b", 'a"b', "a\\b", "a`b"])
def test_a_run_whose_path_no_directive_can_hold_is_refused(
    cluster: str, name: str, make_scripts: MakeScripts, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match=r"cannot stand in a job script|takes a backslash"):
        _ = make_scripts(load_profile(cluster), runs_dir=tmp_path / name).files


def test_no_variable_of_the_submitting_shell_comes_into_a_file(
    make_scripts: MakeScripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a-token-that-nobody-may-read")
    for cluster in ("slurm-h100", "tsubame4", "local"):
        files = make_scripts(load_profile(cluster), 1).files
        assert not any("nobody-may-read" in text for text in files.values())


def test_what_a_job_reads_is_what_was_submitted(make_scripts: MakeScripts, tmp_path: Path) -> None:
    scripts = make_scripts(load_profile("slurm-h100"))
    for path, text in scripts.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    jobs = tmp_path / "runs" / "small" / "jobs"
    spec = read_spec(jobs / "003-job.json")
    assert isinstance(spec, JobSpec)
    assert spec.profile == scripts.profile
    assert load_yaml(Recipe, jobs / "003-recipe.yaml") == scripts.recipe
    assert load_profile(str(jobs / "003-cluster.yaml")) == scripts.profile


def test_ones_own_template_goes_before_the_bundled_one(make_scripts: MakeScripts, tmp_path: Path) -> None:
    bundled = (bundled_folder("slurm") / "train_job.sbatch").read_text()
    (tmp_path / "train_job.sbatch").write_text(
        bundled.replace("set -eo pipefail", "set -eo pipefail\nulimit -l 1")
    )
    scripts = make_scripts(load_profile("slurm-h100", [f"templates={tmp_path}"]))
    assert "\nulimit -l 1\ncd " in scripts.files[scripts.script]


@pytest.mark.parametrize(
    ("visible", "processes"), [("", 1), ("-1", 1), ("0", 1), ("0,2", 2), ("GPU-a,GPU-b,GPU-c", 3)]
)
def test_this_machine_trains_with_a_process_for_every_gpu_that_can_be_seen(
    visible: str, processes: int, small_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    recipe = small_recipe().model_copy(update={"global_batch_size": 12})
    shown = launch_run(recipe, load_profile("local"), dry_run=True).message
    assert f'"processes_per_node": {processes},' in shown


def test_a_dry_run_shows_script_and_command_and_leaves_nothing(
    small_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    shown = launch_run(small_recipe(), load_profile("slurm-h100"), nodes=4, dry_run=True).message
    assert "#SBATCH --nodes=4" in shown
    assert "\nsbatch --parsable " in shown
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.parametrize(
    ("cluster", "changes", "nodes", "message"),
    [
        ("local", [], 2, "--nodes 2: local gives a job at most 1"),
        ("tsubame4", [], 65, "gives a job at most 64"),
        ("slurm-h100", ["walltime=null"], 1, "its profile has no walltime"),
        ("tsubame4", ["resource_type=null"], 2, "does not say how to ask for them"),
        ("slurm-h100", [], 3, "cannot run on 24 GPUs"),
        ("slurm-h100", ["environment={container: /no/such.sif}"], 1, "there is no image"),
    ],
)
def test_what_the_cluster_cannot_run_is_refused(
    cluster: str,
    changes: list[str],
    nodes: int,
    message: str,
    small_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    with pytest.raises((LaunchError, RecipeError)) as refused:
        launch_run(small_recipe(), load_profile(cluster, changes), nodes=nodes)
    assert message in str(refused.value)
    assert not list(tmp_path.rglob("runs"))
