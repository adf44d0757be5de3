"""`retrieva evaluate`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieva_pretrain.cli.arguments import TokenizerFile
from retrieva_pretrain.errors import EvaluationError

if TYPE_CHECKING:
    from retrieva_pretrain.evaluation.run import Scores
    from retrieva_pretrain.evaluation.tasks import Protocol, Task


def evaluate(
    encoders: Annotated[
        list[str],
        typer.Argument(
            help="Folders in Hugging Face's layout (retrieva export makes one), names of the Hub, or runs, which are"
            " exported first.",
            show_default=False,
            metavar="DIR...",
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="A copy of JGLUE's datasets folder.", show_default=False)
    ],
    task: Annotated[
        str,
        typer.Option("--task", help="marc-ja, jsts, jnli, jsquad, jcqa, several with commas, or all."),
    ] = "all",
    step: Annotated[
        int | None,
        typer.Option("--step", help="Of a run: the step of the checkpoint; the newest by default."),
    ] = None,
    tokenizer: TokenizerFile = None,
    output: Annotated[
        Path, typer.Option("--output", help="Where results are kept; finished ones are not run again.")
    ] = Path("evaluations"),
    learning_rates: Annotated[
        str, typer.Option("--lr", help="Learning rates of the grid.")
    ] = "5e-5,3e-5,2e-5",
    epochs: Annotated[str, typer.Option("--epochs", help="Epochs of the grid.")] = "3,4",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of each grid point.")] = "42",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples of a step.")] = 32,
    device_batch_size: Annotated[
        int | None,
        typer.Option(
            "--device-batch-size", min=1, help="Examples in one forward pass; divides --batch-size."
        ),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision; JGLUE's own is fp32.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="To try it out: steps of a point at most.")
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", min=1, help="To try it out: examples of a file at most.")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that a model brings along (our own needs no leave)."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the best scores as JSON.")] = False,
) -> None:
    """Fine-tune encoders on JGLUE and show their scores beside the published ones.

    Example: retrieva evaluate exported tohoku-nlp/bert-base-japanese-v3 --task jsts,jcqa --data JGLUE/datasets
    """
    from retrieva_pretrain.evaluation.models import find_encoder
    from retrieva_pretrain.evaluation.run import (
        Evaluation,
        evaluated_before,
        refuse_missing_packages,
    )
    from retrieva_pretrain.evaluation.run import evaluate as run
    from retrieva_pretrain.evaluation.tasks import Protocol

    tasks = _tasks(task)
    protocol = Protocol(
        learning_rates=tuple(_numbers("--lr", learning_rates, float)),
        epochs=tuple(int(n) for n in _numbers("--epochs", epochs, int)),
        seeds=tuple(int(n) for n in _numbers("--seeds", seeds, int, least=0)),
        batch_size=batch_size,
        bf16=bf16,
        max_steps=max_steps,
        max_examples=max_examples,
    )
    on_device = device_batch_size or batch_size
    if batch_size % on_device:
        raise EvaluationError(f"--device-batch-size: {on_device} does not divide the batch of {batch_size}")
    refuse_missing_packages()
    evaluation = Evaluation(
        [
            find_encoder(_exported(encoder, step, tokenizer, output), trust_remote_code=trust_remote_code)
            for encoder in encoders
        ],
        tasks,
        data,
        output,
        protocol,
    )
    # Trainer would spread a batch over all GPUs it sees, each with a whole one: another protocol.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # Its workers are forked from us otherwise, and warn at every point.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from retrieva_pretrain.evaluation.finetune import Device, quiet

    quiet()
    done = run(
        evaluation,
        Device(on_device, gradient_checkpointing, progress=sys.stderr.isatty() and not as_json),
        lambda line: typer.echo(line, err=True),
    )
    before = evaluated_before(output)
    picture = _draw(output, before.scores, before.tokens)
    if as_json:
        typer.echo(json.dumps(done.best, ensure_ascii=False, indent=2))
    else:
        _show(done, protocol, f"kept in {output}: scores.json and scores.md of each encoder{picture}")
    if done.missing:
        raise EvaluationError(
            f"{done.missing} grid points are being computed by another process; the same command shows them when"
            " they are done"
        )


def _exported(encoder: str, step: int | None, tokenizer: Path | None, output: Path) -> str:
    """Return the encoder's folder; a run's checkpoint is exported beside the results first, once."""
    run = Path(encoder)
    if not (run / "checkpoints").is_dir():
        return encoder
    from retrieva_pretrain.checkpoint_names import checkpoint_name, step_of
    from retrieva_pretrain.training.run_folder import RunFolder

    if step is None:
        newest = RunFolder(run).newest_checkpoint()
        if newest is None:
            raise EvaluationError(f"{run}: has no checkpoint yet")
        step = step_of(newest.name)
        assert step is not None
    out = output / "exports" / f"{run.resolve().name}-{checkpoint_name(step)}"
    if not out.exists():
        from contextlib import nullcontext

        from retrieva_pretrain.export.export import export

        typer.echo(f"exporting step {step:,} of {run} to {out}", err=True)
        export(run, out, status=lambda _: nullcontext(), step=step, tokenizer=tokenizer)
    return str(out)


def _tasks(text: str) -> list[Task]:
    """Return the tasks that are named, each once."""
    from retrieva_pretrain.evaluation.tasks import TASKS

    names = list(TASKS) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise EvaluationError(f"--task: there is no task {unknown[0]}; there are {', '.join(TASKS)} and all")
    return [TASKS[name] for name in dict.fromkeys(names)]


def _numbers(option: str, text: str, kind: type[int] | type[float], least: float = 1e-12) -> list[float]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or any(not least <= number < 2**32 for number in numbers):
        raise EvaluationError(f"{option}: {text!r} is not a list of numbers with commas, such as 1,2")
    return list(dict.fromkeys(numbers))


def _show(done: Scores, protocol: Protocol, last: str) -> None:
    """Print the grid of every encoder and task, and the best scores."""
    from rich.console import Console

    from retrieva_pretrain.evaluation.run import note
    from retrieva_pretrain.evaluation.summary import grid_table, scores_table
    from retrieva_pretrain.evaluation.tasks import TASKS

    console = Console()
    for name, of_encoder in done.results.items():
        console.print(f"\n{name}", style="bold")
        for task_name, results in of_encoder.items():
            if results:
                console.print(grid_table(TASKS[task_name], results))
    console.print(scores_table(done.best))
    console.print(note(protocol).replace("**", ""))
    console.print(last)


def _draw(output: Path, scores: dict[str, dict[str, dict[str, float]]], tokens: dict[str, int]) -> str:
    """Draw the scores over tokens where several encoders say theirs; returns what to add to the last line."""
    from importlib.util import find_spec

    if len(tokens) < 2 or find_spec("matplotlib") is None:
        return ""
    from retrieva_pretrain.evaluation.plot import plot_scores

    for format_ in ("png", "svg"):
        plot_scores(output / f"scores.{format_}", scores, tokens)
    return "; scores.png shows the scores over the tokens of pretraining"
