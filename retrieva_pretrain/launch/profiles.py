"""What is known of a cluster: its scheduler, its nodes, and what a job of ours asks for and needs around it.

The top level describes training jobs; `data` the CPU jobs of `retrieva data build`. Account, group, mail, modules,
environment and variables hold for both. Passwords and tokens have no place here: profiles are shared and the
scripts made of them are readable by others.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from retrieva_pretrain.bundled import recipes_folder
from retrieva_pretrain.durations import parse_duration
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.recipe.fields import PlainText, PositiveFloat, PositiveInt, Section, refuse
from retrieva_pretrain.recipe.loading import load_yaml
from retrieva_pretrain.redaction import SECRET

SchedulerName = Literal["local", "slurm", "grid_engine"]

# Options that this project sets itself; a second one would win over ours without a word.
_OURS = {
    "slurm": re.compile(
        r"-[aodeJN]|--(?:array|output|error|dependency|job-name|parsable|wrap|chdir|nodes|ntasks|signal)\b|-D"
        r"|--(?:kill-on-invalid-dep|no-requeue|open-mode)\b"
    ),
    "grid_engine": re.compile(r"-(?:t|o|e|j|N|S|wd|cwd|terse|hold_jid|sync)(?:\s|$)"),
    "local": re.compile(r"(?!)"),
}
_WALLTIME = re.compile(r"[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]")


def _walltime(text: str) -> str:
    # One form for all schedulers; nothing but zeros would be an end before the beginning.
    if not _WALLTIME.fullmatch(text) or not text.strip("0:"):
        raise ValueError(f"cannot be {text!r}; write hours:minutes:seconds in quotes, such as '24:00:00'")
    return text


def _word(text: str) -> str:
    # These stand in the scheduler's directives, and some are put together to lists there.
    if not re.fullmatch(r"[\w@+=:./-]+", text) or text.startswith("-"):
        raise ValueError(
            f"cannot be {text[:80]!r}; use letters, digits and @ + = : . _ / - (not - at the beginning)"
        )
    return text


def _memory(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,6}[MGT]", text):
        raise ValueError(f"cannot be {text[:80]!r}; write a whole number with M, G or T, such as 64G")
    return text


Walltime = Annotated[str, AfterValidator(_walltime)]
Word = Annotated[str, AfterValidator(_word)]
Memory = Annotated[str, AfterValidator(_memory)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def seconds(walltime: str) -> int:
    """Return hours:minutes:seconds as seconds."""
    return int(parse_duration(walltime))


class Environment(Section):
    """Where the jobs find `retrieva_pretrain`; with neither, in the Python that submits them."""

    virtual_environment: PlainText | None = Field(
        default=None, description="The folder of a virtual environment that every node sees."
    )
    container: PlainText | None = Field(default=None, description="An image that apptainer runs.")
    binds: list[PlainText] = Field(
        default_factory=list, description="Folders that the container sees besides the working directory."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Environment:
        problems = []
        if self.virtual_environment and self.container:
            problems.append(
                "container: stands beside virtual_environment; keep one (a container brings its own)"
            )
        if self.binds and not self.container:
            problems.append("binds: are for a container; name one or remove them")
        return refuse(self, problems)


class Mail(Section):
    """Whom the scheduler writes to, and when."""

    address: Word = Field(description="Who is written to.")
    on: Annotated[list[Literal["begin", "end", "fail"]], Field(min_length=1)] = Field(
        default=["end", "fail"], description="When."
    )


class DataJobs(Section):
    """The jobs of `retrieva data build`: tasks of an array, and the merge after them. They use no GPU."""

    partition: Word | None = Field(default=None, description="Slurm: the partition; the site's default.")
    resource_type: Word | None = Field(
        default=None, description="Grid Engine: what is asked for as -l TYPE=1; the site's default."
    )
    parallel_environment: Word | None = Field(
        default=None, description="Grid Engine: asked for as -pe NAME cpus_per_task."
    )
    cpus_per_task: PositiveInt = Field(default=8, description="CPUs of one task, and its worker processes.")
    memory: Memory | None = Field(default=None, description="Slurm: memory of one task.")
    walltime: Walltime = Field(default="24:00:00", description="How long one task may take.")
    extra_directives: list[PlainText] = Field(
        default_factory=list, description="More options of the scheduler, as they stand behind #SBATCH or #$."
    )


class Training(Section):
    """How training jobs are started, end before their time, and go on."""

    processes_per_node: PositiveInt | None = Field(
        default=None, description="Processes of a node; one a GPU, or one where there is no GPU."
    )
    cpus_per_process: PositiveInt | None = Field(
        default=None, description="CPU threads of a process; what the node has, shared out."
    )
    parallel_environment: Word | None = Field(
        default=None, description="Grid Engine: asked for as -pe NAME nodes."
    )
    rendezvous_address: Word | None = Field(
        default=None,
        description="Where the processes meet: an address of the job's first node, where the name that the"
        " scheduler gives it does not lead there.",
    )
    remote_shell: Annotated[list[PlainText], Field(min_length=1)] = Field(
        default=["qrsh", "-inherit"],
        description="Grid Engine: the command that runs another on a node of the job, before the node's name.",
    )
    leave_before_end: Walltime = Field(
        default="00:05:00", description="How long before its time is up a job saves and leaves."
    )
    goes_on: Literal["requeue", "follow_up"] = Field(
        default="requeue",
        description="requeue: a job that must leave puts itself back into the queue; follow_up: every job submits"
        " the next one, which waits for its end, where the site allows no requeue.",
    )
    max_failures: PositiveInt = Field(
        default=3, description="Failures in a row, without a new checkpoint between them, that end a run."
    )
    max_preemptions: PositiveInt = Field(
        default=100, description="Times that a run may be killed from outside before it stays so."
    )


class ClusterProfile(Section):
    """A cluster."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100)] = Field(
        description="What it is called."
    )
    scheduler: SchedulerName = Field(description="Who starts jobs.")
    max_nodes: PositiveInt | None = Field(default=None, description="Nodes that a job may have at most.")
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="GPUs of a node.")
    gpu_type: Word | None = Field(
        default=None, description="The GPUs' name in the scheduler, where it wants one."
    )
    gpu_memory: Memory | None = Field(default=None, description="Memory of one GPU.")
    gpu_peak_tflops: PositiveFloat | None = Field(
        default=None, description="Peak of one GPU in dense bf16, in 10^12 operations a second."
    )
    gpu_memory_bandwidth: PositiveFloat | None = Field(
        default=None, description="What one GPU's memory delivers, in GB/s."
    )
    interconnect_bandwidth: PositiveFloat | None = Field(
        default=None,
        description="What one node sends to others through all its adapters together, in GB/s (400 Gbit/s are 50).",
    )
    node_hour_price: PositiveFloat | None = Field(
        default=None, description="What an hour of one node costs, for plans."
    )
    price_unit: PlainText | None = Field(
        default=None, description="In what: a currency, or the site's points."
    )
    cpus_per_node: PositiveInt | None = Field(default=None, description="CPUs of a node.")
    memory_per_node: Memory | None = Field(default=None, description="Memory of a node.")
    partition: Word | None = Field(default=None, description="Slurm: the partition of training jobs.")
    resource_type: Word | None = Field(default=None, description="Grid Engine: a node for training.")
    account: Word | None = Field(default=None, description="Slurm: who pays.")
    group: Word | None = Field(default=None, description="Grid Engine: who pays, as -g of qsub.")
    walltime: Walltime | None = Field(default=None, description="How long one training job may take.")
    max_walltime: Walltime | None = Field(default=None, description="The site's limit.")
    modules: list[Word] = Field(default_factory=list, description="Environment modules to load.")
    environment: Environment = Field(default=Environment(), description="Where the program is.")
    environment_variables: dict[VariableName, PlainText | int] = Field(
        default_factory=dict, description="Variables that every job sets; no secrets."
    )
    scratch: PlainText | None = Field(
        default=None, description="A folder on every node for temporary files, given to jobs as TMPDIR."
    )
    mail: Mail | None = Field(default=None, description="Mail about jobs.")
    extra_directives: list[PlainText] = Field(
        default_factory=list, description="More options of the scheduler for training jobs."
    )
    templates: PlainText | None = Field(
        default=None, description="A folder of script templates of your own, looked in first."
    )
    training: Training = Field(default=Training(), description="How training jobs start, end and go on.")
    data: DataJobs = Field(default=DataJobs(), description="Jobs that prepare data.")

    @property
    def processes_per_node(self) -> int:
        """Processes of training on one node."""
        return self.training.processes_per_node or self.gpus_per_node or 1

    @field_validator("environment_variables")
    @classmethod
    def _no_secrets(cls, variables: dict[str, str | int]) -> dict[str, str | int]:
        if secrets := [name for name in variables if SECRET.search(name)]:
            raise ValueError(
                "\n".join(
                    f"{name}: looks like a secret, and everybody can read a job's script; log in once with the tool "
                    "that asks for it, or export it in the shell's own start-up file"
                    for name in secrets
                )
            )
        return variables

    @model_validator(mode="after")
    def _fits_the_scheduler(self) -> ClusterProfile:
        problems = [*self._fields_of_another_scheduler(), *self._too_long(), *self._directives_of_ours()]
        if self.walltime and seconds(self.walltime) <= seconds(self.training.leave_before_end):
            problems.append(
                f"training.leave_before_end: {self.training.leave_before_end} is the whole walltime {self.walltime};"
                " a job would leave before it began"
            )
        return refuse(self, problems)

    def _fields_of_another_scheduler(self) -> list[str]:
        values = {
            "partition": (self.partition, "slurm"),
            "account": (self.account, "slurm"),
            "data.partition": (self.data.partition, "slurm"),
            # Every site of Grid Engine has its own name for memory.
            "data.memory": (self.data.memory, "slurm"),
            "resource_type": (self.resource_type, "grid_engine"),
            "group": (self.group, "grid_engine"),
            "data.resource_type": (self.data.resource_type, "grid_engine"),
            "data.parallel_environment": (self.data.parallel_environment, "grid_engine"),
            "training.parallel_environment": (self.training.parallel_environment, "grid_engine"),
        }
        return [
            f"{field}: is for scheduler: {owner}, this is {self.scheduler}; remove it"
            + (" or give the site's own option in extra_directives" if self.scheduler != "local" else "")
            for field, (value, owner) in values.items()
            if value is not None and owner != self.scheduler
        ]

    def _too_long(self) -> list[str]:
        if self.max_walltime is None:
            return []
        limit = seconds(self.max_walltime)
        times = {"walltime": self.walltime, "data.walltime": self.data.walltime}
        return [
            f"{field}: {time} is over the site's max_walltime {self.max_walltime}; such a job would wait for ever"
            for field, time in times.items()
            if time is not None and seconds(time) > limit
        ]

    def _directives_of_ours(self) -> list[str]:
        problems = []
        lists = {
            "extra_directives": self.extra_directives,
            "data.extra_directives": self.data.extra_directives,
        }
        for field, directives in lists.items():
            for number, directive in enumerate(directives):
                if not directive.startswith("-"):
                    problems.append(f"{field}.{number}: begins with the option's -, such as --constraint=cpu")
                elif _OURS[self.scheduler].match(directive):
                    problems.append(
                        f"{field}.{number}: {directive.split()[0]} is set by the job's script itself; edit the template"
                        " (templates: names a folder of your own)"
                    )
        return problems


def bundled_profiles() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(path.stem for path in (recipes_folder() / "clusters").glob("*.yaml"))


def load_profile(name_or_path: str, overrides: Sequence[str] = ()) -> ClusterProfile:
    """Load a profile by the name of a bundled one or by its path; overrides are `key.path=value`.

    Raises:
        LaunchError: there is no such profile.
        RecipeError: something in it is wrong.
    """
    if re.search(r"/|\.ya?ml$", name_or_path):
        return load_yaml(ClusterProfile, Path(name_or_path), overrides)
    known = bundled_profiles()
    if name_or_path not in known:
        near = difflib.get_close_matches(name_or_path, known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise LaunchError(
            f"--cluster {name_or_path}: there is no such profile; {meant}known: {', '.join(known)};"
            " or give the path of a YAML file of your own"
        )
    return load_yaml(ClusterProfile, recipes_folder() / "clusters" / f"{name_or_path}.yaml", overrides)
