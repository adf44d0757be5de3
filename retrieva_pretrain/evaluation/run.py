"""`retrieva evaluate`: every grid point of every task that is not done yet, then the tables. Torch comes late."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation.models import Encoder
from retrieva_pretrain.evaluation.reading import TaskFiles, find_files, read_examples
from retrieva_pretrain.evaluation.store import Store
from retrieva_pretrain.evaluation.summary import as_json, best_scores, markdown
from retrieva_pretrain.evaluation.tasks import Protocol, Result, Task

if TYPE_CHECKING:
    from retrieva_pretrain.evaluation.finetune import Device

NEEDED = ("transformers", "sklearn", "scipy", "accelerate", "safetensors")


@dataclass(frozen=True)
class Evaluation:
    """What was asked for."""

    encoders: Sequence[Encoder]
    tasks: Sequence[Task]
    data: Path
    output: Path
    protocol: Protocol


@dataclass(frozen=True)
class Scores:
    """The results of all encoders, by name and task."""

    results: dict[str, dict[str, list[Result]]]
    missing: int
    """Grid points that other processes are still computing."""

    @property
    def best(self) -> dict[str, dict[str, dict[str, float]]]:
        """The metrics of each task's best grid point, by encoder."""
        return {name: best_scores(of_encoder) for name, of_encoder in self.results.items()}


def refuse_missing_packages() -> None:
    """Raise EvaluationError where what evaluation needs is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"evaluation needs {', '.join(missing)}; install them: pip install 'retrieva-pretrain[eval]'"
        )


def evaluate(evaluation: Evaluation, device: Device | None, say: Callable[[str], None]) -> Scores:
    """Compute what is not there yet, keeping each grid point as it is done, and write the scores.

    `device` is None where nothing may be computed, only told. `say` is told of every grid point.

    Raises:
        EvaluationError: a model, a file or a kept result does not fit.
    """
    twice = [name for name, n in Counter(e.folder_name for e in evaluation.encoders).items() if n > 1]
    if twice:
        raise EvaluationError(f"two encoders are named {twice[0]}; evaluate them into two --output folders")
    files = {task.name: find_files(evaluation.data, task) for task in evaluation.tasks}
    for task in evaluation.tasks:  # all of them before the first hour of the first one
        read_examples(files[task.name].train, task, evaluation.protocol.max_examples)
        read_examples(files[task.name].valid, task, evaluation.protocol.max_examples)
    results: dict[str, dict[str, list[Result]]] = {}
    missing = 0
    for encoder in evaluation.encoders:
        store = Store(evaluation.output, encoder, evaluation.protocol)
        of_encoder: dict[str, list[Result]] = {}
        for task in evaluation.tasks:
            done, left = _run_task(evaluation, store, task, files[task.name], device, say)
            of_encoder[task.name] = done
            missing += left
        results[encoder.name] = of_encoder
        _write(evaluation, store, encoder, of_encoder)
    return Scores(results, missing)


def _run_task(
    evaluation: Evaluation,
    store: Store,
    task: Task,
    files: TaskFiles,
    device: Device | None,
    say: Callable[[str], None],
) -> tuple[list[Result], int]:
    """Return the results of a task's grid, and how many points another process is computing."""
    data = files.sha256()
    points = evaluation.protocol.points()
    found = {point: store.find(task, point, data) for point in points}
    prepared: Any = None
    left = 0
    for number, point in enumerate(points, 1):
        line = f"{store.encoder.name}  {task.title} {number}/{len(points)}  {point.name}"
        if found[point] is not None:
            say(f"{line}: done before, {_shown(found[point])}")
            continue
        if device is None:
            left += 1
            continue
        with store.at_work(task, point) as is_ours:
            # Another process may have finished it since.
            found[point] = store.find(task, point, data)
            if found[point] is None and not is_ours:
                left += 1
                say(f"{line}: another process is at it")
            elif found[point] is None:
                from retrieva_pretrain.evaluation.finetune import PreparedTask, fine_tune

                prepared = prepared or PreparedTask(store.encoder, task, files, evaluation.protocol)
                result = fine_tune(prepared, evaluation.protocol, point, device)
                store.keep(task, result, data)
                found[point] = result
                say(f"{line}: {_shown(result)}")
    return [result for result in found.values() if result is not None], left


def _shown(result: Result | None) -> str:
    assert result is not None
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    return f"{scores} ({result.seconds:,.0f} s)"


def _write(evaluation: Evaluation, store: Store, encoder: Encoder, results: dict[str, list[Result]]) -> None:
    """Write an encoder's scores.json and scores.md; tasks of earlier calls stay in them."""
    path = store.folder / "scores.json"
    tasks: dict[str, Any] = {}
    if path.exists():
        try:
            before = json.loads(path.read_bytes())
            if before["fingerprint"] == encoder.fingerprint and before["settings"] == store.settings:
                tasks = before["tasks"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the points are what counts; this file is made of them
    tasks.update(as_json(results))
    if not tasks:
        return
    content = {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "consumed_tokens": encoder.consumed_tokens,
        "settings": store.settings,
        "protocol": asdict(evaluation.protocol),
        "is_a_trial": evaluation.protocol.is_a_trial,
        "tasks": tasks,
    }
    store.folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
    best = {encoder.name: {name: of_task["best"]["mean"] for name, of_task in tasks.items()}}
    write_whole(store.folder / "scores.md", markdown(best, note(evaluation.protocol)).encode())


def note(protocol: Protocol) -> str:
    """Return what a table must say of how it was made."""
    rates = ", ".join(f"{rate:g}" for rate in protocol.learning_rates)
    epochs = ", ".join(map(str, protocol.epochs))
    trial = " **A trial: training was cut short, these scores say nothing.**" if protocol.is_a_trial else ""
    return (
        f"Development sets of JGLUE; the best of learning rates {rates} and {epochs} epochs, batches of"
        f" {protocol.batch_size}{', bf16' if protocol.bf16 else ''}, warm-up over a tenth of the steps, mean over {len(protocol.seeds)} seed(s)."
        " Published rows are others' own figures."
        f"{trial}"
    )


@dataclass
class EarlierScores:
    """What an output folder holds, by the encoders' names."""

    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Encoder -> task -> metric -> the best mean."""

    tokens: dict[str, int] = field(default_factory=dict)
    """Positions of pretraining, where they are known."""

    trials: set[str] = field(default_factory=set)
    """Encoders whose fine-tuning was cut short."""


def evaluated_before(output: Path) -> EarlierScores:
    """Return the best scores of all encoders of an output folder.

    Raises:
        EvaluationError: a file of scores cannot be read.
    """
    found = EarlierScores()
    for path in sorted(output.glob("*/scores.json")):
        try:
            content = json.loads(path.read_bytes())
            name = content["encoder"]
            found.scores[name] = {task: of["best"]["mean"] for task, of in content["tasks"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{path}: cannot be read ({error}); remove it, it is made again") from None
        if content.get("consumed_tokens") is not None:
            found.tokens[name] = int(content["consumed_tokens"])
        if content.get("is_a_trial"):
            found.trials.add(name)
    return found
