"""A real Slurm of two nodes on this machine, started by the tests that need one and stopped after them.

Everything of it lies in a folder of its own and listens on free ports, so that two runs of the tests at once
have two clusters. Only processes that were started here are ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retrieva_pretrain.launch.torchrun import free_port

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge", "slurm-wlm-basic-plugins"]
PROGRAMS = ["slurmctld", "slurmd", "sbatch", "munged"]
NODES = ["n1", "n2"]

CONFIGURATION = """\
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.sock,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
MinJobAge=3600
KillWait=5
MailProg=/bin/true
SlurmdParameters=config_overrides
"""
CGROUP = "CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"


def wait_for(what: str, is_so: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so; fail naming it where it does not come."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for: {what}"
        time.sleep(0.2)


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., None]:
    return wait_for


def _install_slurm() -> None:
    """Install Debian's Slurm where it is missing and may be installed; skip where not."""
    if not [program for program in PROGRAMS if shutil.which(program) is None]:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs Slurm and munge: apt-get install " + " ".join(PACKAGES))
    with (Path(tempfile.gettempdir()) / "retrieva-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
    if installed.returncode != 0:
        pytest.skip("Slurm cannot be installed here: " + installed.stderr.strip()[-300:])


class RealSlurm:
    """A munged, a slurmctld and two slurmd."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "slurm.conf"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = [free_port() for _ in range(1 + len(NODES))]
        text = CONFIGURATION.format(host=host, port=ports[0], root=self.root)
        for node, port in zip(NODES, ports[1:], strict=True):
            text += (
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=8000\n"
            )
        text += f"PartitionName=batch Nodes={','.join(NODES)} Default=YES MaxTime=24:00:00 State=UP\n"
        self.configuration.write_text(text)
        (self.root / "cgroup.conf").write_text(CGROUP)
        (self.root / "state").mkdir()
        self._start_munge()
        self._start("slurmctld", "-D", "-c", "-f", str(self.configuration))
        for node in NODES:
            (self.root / f"spool.{node}").mkdir()
            self._start("slurmd", "-D", "-N", node, "-f", str(self.configuration))
        wait_for("both nodes idle", lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2)

    def ask(self, *command: str) -> str:
        """Run a client of this cluster and return its output."""
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout

    def stop(self) -> None:
        if len(self._processes) > 1:
            self.ask("scancel", "--user=root")
            time.sleep(1)
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_munge(self) -> None:
        folder = self.root / "munge"
        folder.mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        for path in (folder, folder / "munge.key"):
            shutil.chown(path, "munge", "munge")
        files = {"socket": "munge.sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        self._start(
            "munged",
            "--foreground",
            "--force",
            *options,
            f"--key-file={folder / 'munge.key'}",
            user="munge",
        )
        wait_for("munge's socket", (folder / "munge.sock").exists)

    def _start(self, *command: str, user: str | None = None) -> None:
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        with (self.root / f"{command[0]}.out").open("ab") as output:
            self._processes.append(
                subprocess.Popen(command, env=environment, user=user, stdout=output, stderr=output)
            )


@pytest.fixture(scope="session")
def _slurm_cluster() -> Iterator[RealSlurm]:
    _install_slurm()
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemons of Slurm and munge")
    # Not pytest's own folder: munge's user could not reach it.
    root = Path(tempfile.mkdtemp(prefix="retrieva-slurm-"))
    root.chmod(0o755)
    cluster = RealSlurm(root)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def slurm(_slurm_cluster: RealSlurm, monkeypatch: pytest.MonkeyPatch) -> RealSlurm:
    """A running Slurm of two nodes that the clients of this process talk to."""
    monkeypatch.setenv("SLURM_CONF", str(_slurm_cluster.configuration))
    return _slurm_cluster
