"""The curves at Weights & Biases: written offline, one run over restarts, refused where it cannot be."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.optional_packages import refuse_missing_packages
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.recipe.schema import Recipe

if TYPE_CHECKING:
    from tests.training.conftest import World

pytest.importorskip("wandb", reason="the wandb extra is not installed")

SHORT = [f"curriculum.{stage}.train_iters=2" for stage in range(4)]
PROJECT = "logging.wandb_project=encoders"


@pytest.fixture
def without_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("without_key")
def test_a_restart_goes_on_in_the_same_run_with_every_figure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = world.folder / "runs" / "small"
    # Cut short and gone on with: the schedule's length is part of what a run is, so the time ends it.
    world.train(*SHORT, PROJECT, "logging.wandb_exp_name=日本語", processes=2)
    (run_id,) = (folder / "wandb_id").read_text().split()
    for checkpoint in ("step_0000008", "step_0000006"):
        (folder / "checkpoints" / checkpoint).rename(folder / checkpoint)
    world.train(*SHORT, PROJECT, processes=2)
    written = sorted(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    assert len(written) == 2, sorted(folder.glob("wandb/*"))
    contents = [path.read_bytes() for path in written]
    for content in contents:
        for name in ("train/loss", "train/masked_accuracy", "train/tokens_per_second", "held_out_loss/a"):
            assert name.encode() in content, name
    assert "日本語".encode() in contents[0]
    assert (folder / "wandb_id").read_text().split() == [run_id]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("without_key")
def test_without_a_key_the_run_is_refused_with_the_ways_out(world: World) -> None:
    message = world.refused(*SHORT, PROJECT)
    assert re.search(r"logging\.wandb_project: .*WANDB_API_KEY.*WANDB_MODE=offline", message, re.DOTALL)
    assert not list((world.folder / "runs" / "small" / "checkpoints").glob("*"))


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.usefixtures("without_key")
def test_a_service_that_is_not_there_does_not_stop_a_training(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    # Nobody listens on port 9 (discard).
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    metrics = world.train(*SHORT, PROJECT, processes=1)
    assert sum(line["kind"] == "train" for line in metrics) == 8
    log = next(world.folder.glob("train-*.log")).read_text()
    assert log.count("WARNING: Weights & Biases could not be started") == 1
    assert "a" * 40 not in log


def test_a_recipe_that_asks_for_it_where_it_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load_yaml(Recipe, Path(__file__).parents[1] / "recipe" / "small.yaml", [PROJECT])
    refuse_missing_packages(recipe)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"logging\.wandb_project: needs wandb.*retrieva-pretrain\[wandb\]"):
        refuse_missing_packages(recipe)
