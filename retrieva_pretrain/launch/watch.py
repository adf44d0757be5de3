"""Staying with a run that this machine trains: its log on the terminal, Ctrl-C to let it save and leave."""

from __future__ import annotations

import sys

from retrieva_pretrain.exit_codes import DONE, FAILED, REQUEUE
from retrieva_pretrain.launch.attempts import read_history
from retrieva_pretrain.launch.logs import follow
from retrieva_pretrain.launch.run_files import RunFiles
from retrieva_pretrain.launch.schedulers.local import Local


def stay_until_the_end(run: RunFiles, job_id: str) -> int:
    """Show the log of a job of this machine until it has ended; return the exit code that says how.

    The first Ctrl-C lets training save and leave, the second ends it at once.
    """
    machine, interrupts = Local(), 0
    while True:
        try:
            # This machine is no scheduler that many ask.
            runs = follow(run, lines=0, goes_on=lambda: bool(machine.states([job_id])), ask_seconds=0)
            for text in runs:
                sys.stdout.write(text)
                sys.stdout.flush()
            break
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts == 1:
                sys.stderr.write("retrieva: training saves and leaves; Ctrl-C once more ends it at once\n")
                machine.ask_to_leave([job_id])
            else:
                machine.cancel([job_id])
    attempts = read_history(run.attempts).attempts
    end = attempts[-1].end if attempts else None
    if end is None or end.outcome in ("failed", "stopped"):
        return FAILED
    return DONE if end.outcome == "done" else REQUEUE
