"""Starting training on every node of a job."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.node import Meeting
from retrieva_pretrain.launch.spec import JobSpec
from retrieva_pretrain.launch.torchrun import kill_tree


def start_nodes(
    spec: JobSpec, command: Sequence[str], meeting: Meeting, hosts: Sequence[str]
) -> list[subprocess.Popen[bytes]]:
    """Start an attempt on all nodes: by one process where `command` reaches them all, or by one a node.

    What the processes print goes to `start.log` of the attempt.

    Raises:
        LaunchError: a command cannot be run; those of the other nodes are ended.
    """
    arguments = meeting_arguments(meeting)
    if spec.profile.scheduler == "grid_engine":
        commands = [[*command, *arguments, "--node-rank=0"]]
        commands += [_on_another_node(spec, host, rank, arguments) for rank, host in enumerate(hosts) if rank]
    else:
        commands = [[*command, *arguments]]
    processes: list[subprocess.Popen[bytes]] = []
    with (spec.files.attempt_logs(meeting.attempt) / "start.log").open("ab") as log:
        for one in commands:
            try:
                process = subprocess.Popen(
                    one,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Signals that the scheduler sends to the group are passed on by the supervisor alone.
                    start_new_session=True,
                )
            except OSError as error:
                for started in processes:
                    kill_tree(started)
                field = "training.remote_shell of the cluster's profile: " if processes else ""
                raise LaunchError(f"{field}{one[0]}: cannot be run: {error.strerror}") from None
            processes.append(process)
    return processes


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
