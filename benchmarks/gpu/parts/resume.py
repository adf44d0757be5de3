"""`deterministic: true`: a run that is killed in its midst and started again, against one that nobody disturbs."""

from __future__ import annotations

import time

from part import Part, end_group, wait_for
from parts.demo import train_command

STAGES = (
    "curriculum=[{seq_length: 16, train_iters: 12, max_micro_batch_size: 64},"
    " {seq_length: 32, train_iters: 6, max_micro_batch_size: 32}]"
)
STEPS, KILL_AFTER = 18, 8


def run(part: Part) -> None:
    """Train, kill, train on, compare every loss and every gradient norm to the bit."""
    common = [STAGES, "deterministic=true", "checkpoint.save_interval=5", "logging.tensorboard=false"]
    if part.rehearse:
        common.append("global_batch_size=32")
    whole = part.retrieva("whole", *train_command(part, "whole", *common))
    killed = part.retrieva("killed", *train_command(part, "killed", *common))
    while killed.poll() is None and part.left > 5 and _steps(part, "killed") < KILL_AFTER:
        time.sleep(0.02)
    taken = _steps(part, "killed")
    end_group(killed)
    code = wait_for(whole, part.left - 2)
    again = wait_for(part.retrieva("killed", *train_command(part, "killed", *common)), part.left - 2)
    one, two = _figures(part, "whole"), _figures(part, "killed")
    different = [step for step in one if one[step] != two.get(step)]
    part.emit(
        "resume",
        killed_after=taken,
        codes=[code, again],
        steps=[len(one), len(two)],
        starts=[r["step"] for r in part.metrics("killed") if r["kind"] == "start"],
        first_difference=min(different, default=None),
        same_to_the_bit=not different and len(one) == STEPS,
        **({} if code == again == 0 else {"error": part.tail("whole") + part.tail("killed")}),
    )


def _steps(part: Part, run_name: str) -> int:
    return max((r["step"] for r in part.metrics(run_name) if r["kind"] == "train"), default=0)


def _figures(part: Part, run_name: str) -> dict[int, list[float]]:
    trained = (r for r in part.metrics(run_name) if r["kind"] == "train")
    return {r["step"]: [r["loss"], r["grad_norm"]] for r in trained}
