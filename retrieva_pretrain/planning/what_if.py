"""The same recipe on several numbers of nodes, side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.activations import AttentionBackend
from retrieva_pretrain.planning.corpora import plan_data
from retrieva_pretrain.planning.hardware import Hardware
from retrieva_pretrain.planning.limits import refuse_impossible
from retrieva_pretrain.planning.plan import Plan, make_plan
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
    recipe: Recipe, nodes: list[int], hardware: Hardware, mfu: float, backend: AttentionBackend | None
) -> list[Row]:
    """Plan a recipe on each of these numbers of nodes.

    Raises:
        RecipeError: the GPUs of a node are not known.
        CorpusError: what is here of the data does not fit the recipe.
    """
    if not hardware.gpus_per_node:
        raise RecipeError(f"--what-if: {hardware.name} has no gpus_per_node; name a cluster that has")
    rows, data = [], plan_data(recipe)
    for count in nodes:
        gpus, plan, refusal = count * hardware.gpus_per_node, None, None
        try:
            plan = make_plan(recipe, gpus, hardware, mfu=mfu, backend=backend, data=data)
            refuse_impossible(recipe, plan)
        except RecipeError as error:
            refusal = str(error)
        rows.append(Row(count, gpus, plan, refusal))
    return rows
