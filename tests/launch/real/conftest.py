"""A real Slurm of two nodes, and a real Grid Engine of one, on this machine while tests need them.

Everything of a cluster lies in a folder of its own and listens on free ports, so that two runs of the tests at
once have two clusters. Only processes that were started here are ended.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retrieva_pretrain.launch.torchrun import free_port
from tests.debian import need
from tests.waiting import wait_until

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
GRID_ENGINE_PACKAGES = ["gridengine-master", "gridengine-exec", "gridengine-client"]
# qconf wants every attribute.
GRID_ENGINE_QUEUE = "\n".join(
    [
        "qname all.q",
        "hostlist localhost",
        "slots 4",
        "seq_no 0",
        "qtype BATCH",
        "shell /bin/bash",
        "shell_start_mode posix_compliant",
        "tmpdir /tmp",
        "rerun FALSE",
        "priority 0",
        "nsuspend 1",
        "suspend_interval 00:05:00",
        "min_cpu_interval 00:05:00",
        "notify 00:00:60",
        "processors UNDEFINED",
        "initial_state default",
        *(f"{name} INFINITY" for name in ("s_rt", "h_rt")),
        *(
            f"{s}_{name} INFINITY"
            for s in "sh"
            for name in ("cpu", "fsize", "data", "stack", "core", "rss", "vmem")
        ),
        *(
            f"{name} NONE"
            for name in ("load_thresholds", "suspend_thresholds", "ckpt_list", "pe_list", "prolog")
        ),
        *(f"{name} NONE" for name in ("epilog", "starter_method", "suspend_method", "resume_method")),
        *(f"{name} NONE" for name in ("terminate_method", "owner_list", "user_lists", "xuser_lists")),
        *(
            f"{name} NONE"
            for name in ("subordinate_list", "complex_values", "projects", "xprojects", "calendar")
        ),
        "",
    ]
)
CGROUP = "CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"


def _need(packages: list[str], present: Callable[[], bool]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemons of a scheduler")
    need(packages, present)


class Daemons:
    """Processes in the foreground, ended with the tests."""

    def __init__(self, root: Path, variables: dict[str, str]) -> None:
        self.root = root
        self.variables = variables
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, user: str | None = None) -> None:
        with (self.root / f"{command[0]}.out").open("ab") as output:
            self._processes.append(
                subprocess.Popen(command, env=self._environment, user=user, stdout=output, stderr=output)
            )

    @property
    def have_died(self) -> bool:
        return any(process.poll() is not None for process in self._processes)

    def ask(self, *command: str) -> str:
        """Run a client of this cluster and return its output."""
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        ).stdout

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables}


def start_slurm(cluster: Daemons) -> None:
    """Start a munged, a slurmctld and two slurmd."""
    root, host = cluster.root, socket.gethostname().split(".")[0]
    configuration = cluster.variables["SLURM_CONF"]
    ports = [free_port() for _ in range(1 + len(NODES))]
    text = CONFIGURATION.format(host=host, port=ports[0], root=root)
    for node, port in zip(NODES, ports[1:], strict=True):
        text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=8000\n"
    text += f"PartitionName=batch Nodes={','.join(NODES)} Default=YES MaxTime=24:00:00 State=UP\n"
    Path(configuration).write_text(text)
    (root / "cgroup.conf").write_text(CGROUP)
    for folder in ("state", "munge", *(f"spool.{node}" for node in NODES)):
        (root / folder).mkdir()
    key = root / "munge" / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (key.parent, key):
        shutil.chown(path, "munge", "munge")
    names = {
        "key-file": "munge.key",
        "socket": "munge.sock",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    options = [f"--{option}={key.parent / name}" for option, name in names.items()]
    cluster.start("munged", "--foreground", "--force", *options, user="munge")
    wait_until("munge's socket", (root / "munge" / "munge.sock").exists)
    cluster.start("slurmctld", "-D", "-c", "-f", configuration)
    for node in NODES:
        cluster.start("slurmd", "-D", "-N", node, "-f", configuration)
    wait_until(
        "both nodes idle", lambda: cluster.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2
    )


def start_grid_engine(cluster: Daemons) -> None:
    """Start a qmaster and an execd with one queue of four slots."""
    root, installed = cluster.root, Path("/usr/share/gridengine")
    common = root / "default" / "common"
    for folder in (common, root / "spooldb", root / "qmaster" / "job_scripts", root / "execd"):
        folder.mkdir(parents=True)
    for name in ("bin", "lib", "utilbin", "util"):
        (root / name).symlink_to(Path("/var/lib/gridengine") / name)
    # Who it is: the names of this machine differ from one sandbox to the next.
    (common / "act_qmaster").write_text("localhost\n")
    (common / "host_aliases").write_text(f"localhost {socket.gethostname()}\n")
    bootstrap = {
        "admin_user": "none",
        "ignore_fqdn": "true",
        "spooling_params": f"{root}/spooldb",
        "qmaster_spool_dir": f"{root}/qmaster",
    }
    settings = {
        "execd_spool_dir": f"{root}/execd",
        "min_uid": "0",
        "min_gid": "0",
        "mailer": "/bin/true",
        "reporting_params": "accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:00",
    }
    (common / "bootstrap").write_text(_changed((installed / "default-bootstrap").read_text(), bootstrap))
    (root / "configuration").write_text(_changed((installed / "default-configuration").read_text(), settings))
    tools, resources = "/usr/lib/gridengine", installed / "util" / "resources"
    cluster.ask(f"{tools}/spoolinit", "berkeleydb", "libspoolb", f"{root}/spooldb", "init")
    cluster.ask(f"{tools}/spooldefaults", "configuration", f"{root}/configuration")
    cluster.ask(f"{tools}/spooldefaults", "complexes", f"{resources}/centry")
    cluster.ask(f"{tools}/spooldefaults", "usersets", f"{resources}/usersets")
    cluster.ask(f"{tools}/spooldefaults", "managers", "root")
    cluster.start("sge_qmaster")
    _unless_died(cluster, "the qmaster", lambda: "localhost" in cluster.ask("qconf", "-sh"))
    cluster.ask("qconf", "-as", "localhost")
    cluster.start("sge_execd")
    scheduler = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
    (root / "scheduler").write_text(_changed(cluster.ask("qconf", "-ssconf"), scheduler))
    cluster.ask("qconf", "-Msconf", f"{root}/scheduler")
    (root / "queue").write_text(GRID_ENGINE_QUEUE)
    cluster.ask("qconf", "-Aq", f"{root}/queue")
    _unless_died(cluster, "the queue", lambda: "lx-" in cluster.ask("qstat", "-f"))


class HasDiedError(Exception):
    """A daemon has ended by itself."""


def _unless_died(cluster: Daemons, what: str, is_so: Callable[[], bool]) -> None:
    wait_until(what, lambda: cluster.have_died or is_so())
    if cluster.have_died:
        raise HasDiedError(what)


def _changed(text: str, settings: dict[str, str]) -> str:
    """Return lines `name value` with other values for some names."""
    for name, value in settings.items():
        text, found = re.subn(rf"(?m)^{name}\s.*$", f"{name} {value}", text)
        assert found == 1, f"no line {name} to change"
    return text


def _running(
    prefix: str, start: Callable[[Daemons], None], variables: Callable[[Path], dict[str, str]], *end_jobs: str
) -> Iterator[Daemons]:
    # Not pytest's own folder: other users could not reach it.
    root = Path(tempfile.mkdtemp(prefix=prefix))
    root.chmod(0o755)
    cluster = Daemons(root, variables(root))
    try:
        start(cluster)
        yield cluster
        cluster.ask(*end_jobs)
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["slurm", "grid_engine"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the schedulers in turn, started for the test."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def _slurm_cluster() -> Iterator[Daemons]:
    _need(PACKAGES, lambda: all(map(shutil.which, PROGRAMS)))

    def variables(root: Path) -> dict[str, str]:
        return {"SLURM_CONF": str(root / "slurm.conf")}

    yield from _running("retrieva-slurm-", start_slurm, variables, "scancel", "--user=root")


@pytest.fixture(scope="session")
def _grid_engine_cluster() -> Iterator[Daemons]:
    _need(GRID_ENGINE_PACKAGES, lambda: bool(shutil.which("sge_qmaster") and shutil.which("sge_execd")))

    def variables(root: Path) -> dict[str, str]:
        ports = {"SGE_QMASTER_PORT": str(free_port()), "SGE_EXECD_PORT": str(free_port())}
        # SGE_ND keeps the daemons in the foreground.
        return {"SGE_ROOT": str(root), "SGE_CELL": "default", "SGE_ND": "1", **ports}

    def start(cluster: Daemons) -> None:
        try:
            start_grid_engine(cluster)
        except HasDiedError as error:  # it is particular about what machines are called
            said = "".join(path.read_text()[-300:] for path in cluster.root.glob("sge_*.out"))
            pytest.skip(f"Grid Engine does not start here: {error}; {said}")

    yield from _running("retrieva-ge-", start, variables, "qdel", "-u", "root")


@pytest.fixture
def slurm(_slurm_cluster: Daemons, monkeypatch: pytest.MonkeyPatch) -> Daemons:
    """A running Slurm of two nodes that the clients of this process talk to."""
    return _speak_to(_slurm_cluster, monkeypatch)


@pytest.fixture
def grid_engine(_grid_engine_cluster: Daemons, monkeypatch: pytest.MonkeyPatch) -> Daemons:
    """A running Grid Engine that the clients of this process talk to."""
    return _speak_to(_grid_engine_cluster, monkeypatch)


def _speak_to(cluster: Daemons, monkeypatch: pytest.MonkeyPatch) -> Daemons:
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    return cluster
