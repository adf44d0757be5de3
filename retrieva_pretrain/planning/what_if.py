"""The same recipe on several numbers of nodes, side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.corpora import DataPlan, plan_data
from retrieva_pretrain.planning.hardware import Hardware
from retrieva_pretrain.planning.limits import refuse_impossible
from retrieva_pretrain.planning.measured import Measured, refuse_other_model
from retrieva_pretrain.planning.plan import Plan, make_plan, planned_recipe
from retrieva_pretrain.recipe.schema import Recipe


@dataclass(frozen=True)
class Row:
    """One number of nodes."""

    nodes: int
    gpus: int
    plan: Plan | None
    refusal: str | None
    """Why it cannot run; None where it can."""

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


def what_if(
    recipe: Recipe,
    nodes: list[int],
    hardware: Hardware,
    *,
    mfu: float | None = None,
    measured: Measured | None = None,
    data: DataPlan | None = None,
) -> list[Row]:
    """Plan a recipe on each of these numbers of nodes; the options are those of `make_plan`.

    Raises:
        RecipeError: the GPUs of a node are not known.
        CorpusError: what is here of the data does not fit the recipe.
    """
    if not hardware.gpus_per_node:
        raise RecipeError(f"--what-if: {hardware.name} has no gpus_per_node; name a cluster that has")
    rows, data = [], data or plan_data(recipe)
    if measured is not None:  # refused once, not for every number of nodes
        refuse_other_model(measured, planned_recipe(recipe), data.padded_vocab_size)
    for count in nodes:
        gpus, plan, refusal = count * hardware.gpus_per_node, None, None
        try:
            plan = make_plan(recipe, gpus, hardware, mfu=mfu, measured=measured, data=data)
            refuse_impossible(recipe, plan)
        except RecipeError as error:
            refusal = str(error)
        rows.append(Row(count, gpus, plan, refusal))
    return rows
