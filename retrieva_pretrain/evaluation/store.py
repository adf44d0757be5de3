"""The results of grid points on disk: each is written whole when it is done, and never computed twice. No torch.

OUTPUT/ENCODER/points/TASK/lr5e-05_epochs3_seed42.json, and a lock beside it while it is being computed.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.whole_files import write_whole
from retrieva_pretrain.errors import EvaluationError
from retrieva_pretrain.evaluation.models import Encoder
from retrieva_pretrain.evaluation.tasks import GridPoint, Protocol, Result, Task


class Store:
    """The results of one encoder."""

    def __init__(self, output: Path, encoder: Encoder, protocol: Protocol) -> None:
        """Take the folder of all encoders; nothing is written."""
        self.folder = output / encoder.folder_name
        self.encoder = encoder
        self.settings: dict[str, Any] = {
            "batch_size": protocol.batch_size,
            "bf16": protocol.bf16,
            "max_steps": protocol.max_steps,
            "max_examples": protocol.max_examples,
        }

    def path(self, task: Task, point: GridPoint) -> Path:
        """Return the file of a grid point."""
        return self.folder / "points" / task.name / f"{point.name}.json"

    def find(self, task: Task, point: GridPoint, data: str) -> Result | None:
        """Return a finished grid point; None where it is still to be computed.

        `data` is the fingerprint of the task's files.

        Raises:
            EvaluationError: what is there was computed from another model, other data or other settings.
        """
        path = self.path(task, point)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_bytes())
            made_of = content["made_of"]
            result = Result(**{**content["result"], "point": GridPoint(**content["result"]["point"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path}: cannot be read ({error}); remove it to compute it again"
            ) from None
        expected = self._made_of(data)
        differing = [name for name, value in expected.items() if made_of.get(name) != value]
        if differing:
            raise EvaluationError(
                f"{path}: was computed with another {' and '.join(differing)}."
                " Give another --output, or remove that folder to compute it again"
            )
        return result

    def keep(self, task: Task, result: Result, data: str) -> None:
        """Write a grid point that is done."""
        path = self.path(task, result.point)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"made_of": self._made_of(data), "result": asdict(result)}
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False).encode())

    @contextmanager
    def at_work(self, task: Task, point: GridPoint) -> Iterator[bool]:
        """Hold a grid point; False where another process computes it at this moment."""
        lock = self.path(task, point).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True
            lock.unlink(missing_ok=True)

    def _made_of(self, data: str) -> dict[str, Any]:
        return {"model": self.encoder.fingerprint, "data": data, "settings": self.settings}
