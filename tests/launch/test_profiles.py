"""A cluster's profile is checked before anything is submitted, and never holds a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieva_pretrain.errors import LaunchError, RecipeError
from retrieva_pretrain.launch.profiles import bundled_profiles, load_profile
from retrieva_pretrain.recipe.loading import dump_yaml


@pytest.mark.parametrize("name", bundled_profiles())
def test_every_bundled_profile_loads_by_its_name_and_is_called_so(name: str) -> None:
    assert load_profile(name).name == name


def test_the_three_clusters_of_the_documentation_are_bundled() -> None:
    assert {"local", "slurm-h100", "tsubame4"} <= set(bundled_profiles())


def test_a_profile_of_ones_own_is_taken_by_its_path(tmp_path: Path) -> None:
    mine = load_profile("slurm-h100", ["name=mine", "partition=gpu", "data.partition=cpu", "account=abc"])
    (tmp_path / "mine.yaml").write_text(dump_yaml(mine))
    assert load_profile(str(tmp_path / "mine.yaml")) == mine


def test_an_unknown_name_is_refused_with_the_nearest_and_all_that_are_known() -> None:
    with pytest.raises(LaunchError, match=r"did you mean tsubame4\? known: local, slurm-h100, tsubame4"):
        load_profile("tsubame")


def test_a_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no-such\.yaml: cannot be read"):
        load_profile("no-such.yaml")


@pytest.mark.parametrize(
    ("cluster", "override", "message"),
    [
        ("slurm-h100", "partitoin=x", "did you mean partition?"),
        ("slurm-h100", "data.walltme=x", "did you mean walltime?"),
        ("slurm-h100", 'partition="a b"', "partition: cannot be 'a b'"),
        ("slurm-h100", 'partition="x\\n#SBATCH --wrap=y"', "partition: cannot be"),
        ("slurm-h100", "account=--wrap=x", "account: cannot be"),
        ("slurm-h100", "mail={address: 'x;y'}", "mail.address: cannot be"),
        ("slurm-h100", "data.walltime=3600", "data.walltime: must be text"),
        ("slurm-h100", "data.walltime='1:00'", "hours:minutes:seconds"),
        ("slurm-h100", "data.walltime=00:00:00", "hours:minutes:seconds"),
        ("slurm-h100", "data.memory=lots", "data.memory: cannot be"),
        ("slurm-h100", "group=x", "group: is for scheduler: grid_engine, this is slurm"),
        ("slurm-h100", "data.parallel_environment=smp", "data.parallel_environment: is for scheduler"),
        ("tsubame4", "data.memory=64G", "data.memory: is for scheduler: slurm"),
        ("tsubame4", "data.walltime=24:00:01", "over the site's max_walltime 24:00:00"),
        ("tsubame4", "walltime=25:00:00", "walltime: 25:00:00 is over"),
        ("slurm-h100", "data.extra_directives=[--array=1-9]", "extra_directives.0: --array=1-9 is set by"),
        ("slurm-h100", "data.extra_directives=[-o x]", "extra_directives.0: -o is set by"),
        ("tsubame4", "data.extra_directives=[-t 1-9]", "extra_directives.0: -t is set by"),
        ("slurm-h100", "data.extra_directives=[constraint=x]", "begins with the option's -"),
        ("slurm-h100", 'data.extra_directives=["--x=y\\nrm -rf z"]', "control character"),
        ("slurm-h100", "environment={container: a, virtual_environment: b}", "environment.container"),
        ("slurm-h100", "environment={binds: [a]}", "environment.binds"),
        ("slurm-h100", "environment_variables={HF_TOKEN: abc}", "HF_TOKEN: looks like a secret"),
        ("slurm-h100", "environment_variables={WANDB_API_KEY: abc}", "WANDB_API_KEY: looks like a secret"),
        ("slurm-h100", "environment_variables={'A=$(x)': abc}", "environment_variables"),
        ("slurm-h100", 'environment_variables={A: "b\\nc"}', "control character"),
        ("slurm-h100", 'modules=["cuda; x"]', "modules.0: cannot be"),
    ],
)
def test_what_no_job_could_run_with_is_refused(cluster: str, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_profile(cluster, [override])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "override",
    [
        "data.extra_directives=[--constraint=nvme, --exclusive, --exclude=n1]",
        "environment_variables={TOKENIZERS_PARALLELISM: 'false', OMP_NUM_THREADS: 1}",
        "data.walltime=100:00:00",
        "modules=[cuda/12.4, gcc]",
    ],
)
def test_what_clusters_want_is_accepted(override: str) -> None:
    load_profile("slurm-h100", [override])
