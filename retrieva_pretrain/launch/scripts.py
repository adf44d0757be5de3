"""Job scripts from the templates in `slurm/` and `grid_engine/`, with every value quoted or refused.

The templates are jinja2 rather than string.Template: a shell script is full of `$`, which the latter takes for
its own, and optional directives want `{% if %}` where a reader of the template sees them. jinja2 escapes nothing
of the shell, so an expression that did not go through one of the filters below is an error.
"""

from __future__ import annotations

import re
import shlex
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from retrieva_pretrain.bundled import bundled_folder
from retrieva_pretrain.errors import LaunchError
from retrieva_pretrain.launch.profiles import ClusterProfile

# What neither scheduler's own reading of a directive takes for something else.
_PLAIN_DIRECTIVE = re.compile(r"[\w@%+=:,./$-]+")
_NEVER_IN_A_DIRECTIVE = frozenset("\"'\\`")


class _Safe(str):
    """Text that a filter has made fit for the place it is put."""


def render(template: str, profile: ClusterProfile, values: Mapping[str, Any]) -> str:
    """Return a script from the template `SCHEDULER/FILE`, such as `slurm/data_job.sbatch`.

    A file of that name in the profile's own `templates` folder goes before the bundled one.

    Raises:
        LaunchError: a value cannot stand where the template puts it, or the template is faulty.
    """
    scheduler, _, file = template.partition("/")
    folders = [bundled_folder(scheduler)]
    if profile.templates is not None:
        if not Path(profile.templates).is_dir():
            raise LaunchError(f"{profile.name}: templates: there is no folder {profile.templates}")
        folders.insert(0, Path(profile.templates))
    surroundings = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        finalize=_only_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # The results are scripts; HTML's escapes would break them, and `_only_safe` stands guard.
        autoescape=False,  # noqa: S701
    )
    surroundings.filters |= {"directive": directive, "sh": word, "words": words, "as_written": as_written}
    try:
        return surroundings.get_template(file).render(profile=profile, **values)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        place = f"{getattr(error, 'name', None) or template}"
        line = f":{error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise LaunchError(f"the script template {place}{line}: {error}") from None


def directive(value: object) -> str:
    """Return a value for a line that the scheduler reads; in double quotes where it needs them.

    Raises LaunchError for what no quotes can hold there.
    """
    text = as_written(value)
    if not text or _NEVER_IN_A_DIRECTIVE & set(text):
        raise LaunchError(
            f"{text[:200]!r} cannot stand in a job script's directives: quotes, backslashes and backticks"
            " have no place there; choose another name or path"
        )
    return _Safe(text if _PLAIN_DIRECTIVE.fullmatch(text) else f'"{text}"')


def word(value: object) -> str:
    """Return a value as one word of the shell."""
    return _Safe(shlex.quote(as_written(value)))


def words(command: Sequence[str]) -> str:
    """Return a command line of the shell."""
    return _Safe(" ".join(map(word, command)))


def as_written(value: object) -> str:
    """Return one line of text as it stands: for what is script or directive already.

    Raises LaunchError for control characters, among them the ends of lines.
    """
    text = str(value)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise LaunchError(f"{text[:200]!r} cannot stand in a job script: it holds a control character")
    return _Safe(text)


def environment_lines(profile: ClusterProfile) -> list[str]:
    """Return the shell lines that load modules, set variables and switch to the virtual environment."""
    lines = []
    if profile.modules:
        # The shell of a batch job may not be a login shell, whose profile defines `module`.
        lines.append("type module >/dev/null 2>&1 || source /etc/profile || true")
        lines.append(f"module load {words(profile.modules)}")
    if profile.scratch:
        lines.append(f"export TMPDIR={word(profile.scratch)}")
    for name, value in profile.environment_variables.items():
        lines.append(f"export {name}={word(value)}")
    if profile.environment.virtual_environment:
        lines.append(f"source {word(profile.environment.virtual_environment + '/bin/activate')}")
    return lines


def check_environment(profile: ClusterProfile) -> None:
    """Refuse an environment that is not there: login nodes and compute nodes see the same file system."""
    place = profile.environment
    if place.virtual_environment and not (Path(place.virtual_environment) / "bin" / "activate").is_file():
        raise LaunchError(
            f"{profile.name}: environment.virtual_environment: {place.virtual_environment} holds no bin/activate;"
            " give the folder of a virtual environment"
        )
    if place.container and "://" not in place.container and not Path(place.container).exists():
        raise LaunchError(f"{profile.name}: environment.container: there is no image {place.container}")


def program_command(
    profile: ClusterProfile, arguments: Sequence[str], *, program: Path | None = None, gpus: bool = False
) -> list[str]:
    """Return the command that runs `retrieva` with such arguments inside a job.

    Args:
        profile: the cluster.
        arguments: of the command line.
        program: the file to run, of a snapshot; by default the installed module.
        gpus: whether a container must see the GPUs.
    """
    place = profile.environment
    what = [str(program)] if program is not None else ["-m", "retrieva_pretrain"]
    if place.container:
        binds = [part for bind in place.binds for part in ("--bind", bind)]
        return [
            "apptainer",
            "exec",
            *(["--nv"] if gpus else []),
            *binds,
            place.container,
            "python3",
            *what,
            *arguments,
        ]
    # Without an environment of its own the job runs what submits it: every node must see that.
    python = "python" if place.virtual_environment else sys.executable
    return [python, *what, *arguments]


def _only_safe(value: Any) -> Any:
    if isinstance(value, _Safe | jinja2.Undefined):
        return value
    raise LaunchError(
        f"the script template puts {str(value)[:80]!r} without a filter; use | directive, | sh, | words"
    )
