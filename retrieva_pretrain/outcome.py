"""How a training ended, in the run's folder: `exit.json`. No torch: training writes it, launchers read it.

torchrun turns every exit code of its workers into 1, so whoever started it reads the file. It is removed when
a training starts; the first process to end writes it, and the others leave it alone.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from retrieva_pretrain.exit_codes import DONE, FAILED, REQUEUE
from retrieva_pretrain.json_files import read_mapping
from retrieva_pretrain.redaction import redacted

FILE = "exit.json"
CODES = {"done": DONE, "stopped": REQUEUE, "failed": FAILED, "hung": FAILED}


def forget_outcome(run: Path) -> dict[str, Any] | None:
    """Remove what an earlier training left; returns it, None where there is none or it was killed."""
    before = read_outcome(run)
    (run / FILE).unlink(missing_ok=True)
    return before


def write_outcome(run: Path, reason: str, *, step: int | None, message: str) -> None:
    """Write how the training ended, unless another process has; nothing is raised, since the end is near anyway.

    Args:
        run: the run's folder.
        reason: `done`, `stopped` (saved and left; start it again), `failed` or `hung`.
        step: steps done, where that is known.
        message: for people.
    """
    content = {
        "reason": reason,
        "code": CODES[reason],
        "step": step,
        "message": redacted(message),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    temporary = run / f".{FILE}.{socket.gethostname()}.{os.getpid()}"
    with suppress(OSError):
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            os.link(temporary, run / FILE)  # whole at once, and the first one stays
        temporary.unlink()


def read_outcome(run: Path) -> dict[str, Any] | None:
    """Return how the last training of a run ended; None where it runs, was killed, or never was."""
    return read_mapping(run / FILE)
