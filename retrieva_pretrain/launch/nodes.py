"""Starting training on every node of a job."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from retrieva_pretrain.launch.node import Meeting
from retrieva_pretrain.launch.spec import JobSpec


def start_nodes(
    spec: JobSpec, command: Sequence[str], meeting: Meeting, hosts: Sequence[str]
) -> list[subprocess.Popen[bytes]]:
    """Start an attempt on all nodes: by one process where `command` reaches them all, or by one a node.

    What the processes print goes to `start.log` of the attempt.
    """
    arguments = meeting_arguments(meeting)
    if spec.profile.scheduler == "grid_engine":
        commands = [[*command, *arguments, "--node-rank=0"]]
        commands += [_on_another_node(spec, host, rank, arguments) for rank, host in enumerate(hosts) if rank]
    else:
        commands = [[*command, *arguments]]
    with (spec.files.attempt_logs(meeting.attempt) / "start.log").open("ab") as log:
        return [
            subprocess.Popen(
                one,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Signals that the scheduler sends to the group are passed on by the supervisor alone.
                start_new_session=True,
            )
            for one in commands
        ]


def meeting_arguments(meeting: Meeting) -> list[str]:
    """Return a meeting as options of `retrieva node`."""
    arguments = [f"--attempt={meeting.attempt}", f"--address={meeting.address}", f"--port={meeting.port}"]
    if meeting.leave_at is not None:
        arguments.append(f"--leave-at={meeting.leave_at:.0f}")
    return arguments


def _on_another_node(spec: JobSpec, host: str, rank: int, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs the job's own script on another node, where it becomes `retrieva node`."""
    there = ["bash", str(spec.script), "node", *arguments, f"--node-rank={rank}"]
    # What a remote shell is given, it puts together to one line and reads again.
    return [*spec.profile.training.remote_shell, host, shlex.join(there)]
