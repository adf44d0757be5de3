"""What a plan refuses: a run that would die at its first step, or wait in a queue for ever."""

from __future__ import annotations

from retrieva_pretrain.errors import RecipeError
from retrieva_pretrain.planning.hardware import GIB
from retrieva_pretrain.planning.memory import stage_memory
from retrieva_pretrain.planning.plan import Plan, planned_recipe
from retrieva_pretrain.planning.suggest import granularities, with_stage
from retrieva_pretrain.recipe.layout import StageLayout, divisors
from retrieva_pretrain.recipe.schema import Recipe


def refuse_impossible(recipe: Recipe, plan: Plan, *, one_job: bool = False) -> None:
    """Raise RecipeError where a plan cannot run on its hardware, naming the nearest that can.

    With `one_job` the run must end within one job's walltime.
    """
    planned = planned_recipe(recipe)
    problems = [*_nodes(plan), *_memory(planned, plan)]
    if one_job:
        problems += _walltime(plan)
    if problems:
        raise RecipeError(f"{plan.name} cannot run on {plan.hardware.name}:\n" + "\n".join(problems))


def _nodes(plan: Plan) -> list[str]:
    most, nodes = plan.hardware.max_nodes, plan.nodes
    if most is None or nodes is None or nodes <= most:
        return []
    near = [n for n in plan.possible_gpus if n <= most * plan.hardware.gpus_per_node][-1:]
    return [
        f"  {nodes} nodes are over the {most} that a job may have"
        + "".join(f"; {n} GPUs would do" for n in near)
    ]


def _memory(recipe: Recipe, plan: Plan) -> list[str]:
    usable, padded = plan.hardware.usable_memory, plan.padded_vocab_size
    if usable is None or padded is None:
        return []
    problems = []
    for stage in plan.stages:
        if stage.cost is None or stage.cost.memory.total <= usable:
            continue
        problems.append(
            f"  curriculum.{stage.stage}: length {stage.seq_length} takes"
            f" {stage.cost.memory.total / GIB:.1f} GiB per GPU of {usable / GIB:.1f} that can be used."
            f" {_way_out(recipe, plan, stage.stage, padded, usable)}"
        )
    return problems


def _way_out(recipe: Recipe, plan: Plan, index: int, padded: int, usable: int) -> str:
    """Name the changes that fit, each alone; the smallest first."""
    planned = plan.stages[index]
    ways = []
    kinds = granularities(recipe)
    now = recipe.curriculum[index].recompute_granularity
    for granularity in kinds[kinds.index(now) :]:
        changed = with_stage(recipe, index, recompute_granularity=granularity, recompute_num_layers=None)
        micro = _largest_that_fits(changed, plan, index, padded, usable)
        if micro is None:
            continue
        change = f"max_micro_batch_size {micro}"
        if granularity != now:
            change = f"recompute_granularity {granularity}" + (
                f" with {change}" if micro < planned.micro_batch_size else ""
            )
        if change not in ways:
            ways.append(change)
        if micro >= planned.micro_batch_size:
            break
    if ways:
        return "What fits: " + ", or ".join(ways)
    return "No micro-batch fits, however much is computed again: divide the model (retrieva plan --suggest)"


def _largest_that_fits(recipe: Recipe, plan: Plan, index: int, padded: int, usable: int) -> int | None:
    share = recipe.global_batch_size // plan.data_parallel_size
    ceiling = recipe.curriculum[index].max_micro_batch_size
    for micro in reversed([d for d in divisors(share) if d <= ceiling]):
        layout = StageLayout(plan.data_parallel_size, micro, share // micro)
        if stage_memory(recipe, index, layout, padded).total <= usable:
            return micro
    return None


def _walltime(plan: Plan) -> list[str]:
    limit = plan.hardware.walltime
    if limit is None:
        return [f"  --one-job: {plan.hardware.name} has no walltime; name a profile that has one (--cluster)"]
    if plan.run is None:
        return ["  --one-job: the time is not known without the size of the vocabulary; give --vocab-size"]
    if plan.run.time is None:
        return [f"  --one-job: the time is not known: {plan.hardware.name} has no gpu_peak_tflops"]
    if plan.run.time.expected <= limit:
        return []
    hours = plan.run.time.expected / 3600
    needed = plan.gpus * plan.run.time.expected / limit
    near = [n for n in plan.possible_gpus if n >= needed][:1]
    return [
        f"  it takes about {hours:,.0f} h and a job may take {limit / 3600:,.0f} h; without"
        " --one-job it goes on in further jobs" + "".join(f"; in one job it needs {n} GPUs" for n in near)
    ]
