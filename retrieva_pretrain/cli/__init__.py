"""The `retrieva` command. Each sub-command parses its arguments and calls one function.

Exit codes: 0 done, 1 refused or failed with one message, 2 wrong usage. Heavy imports stay inside the
sub-commands, so that `retrieva --help` and `retrieva plan` never load torch.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from data_prep.errors import DataPrepError
from retrieva_pretrain import __version__
from retrieva_pretrain.cli.data import app as data_app
from retrieva_pretrain.cli.demo import demo
from retrieva_pretrain.cli.evaluate import evaluate
from retrieva_pretrain.cli.export import export, fill_mask, import_
from retrieva_pretrain.cli.job import job, node
from retrieva_pretrain.cli.launch import launch
from retrieva_pretrain.cli.plan import plan
from retrieva_pretrain.cli.preflight import preflight, preflight_job, preflight_rank, preflight_stages
from retrieva_pretrain.cli.report import report
from retrieva_pretrain.cli.runs import cancel, logs, status
from retrieva_pretrain.cli.train import train
from retrieva_pretrain.errors import RetrievaError

app = typer.Typer(
    name="retrieva",
    help="Pretrain a Japanese encoder on Megatron: raw corpora, a staged curriculum, a checkpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Examples in the help are full of brackets, which rich would read as its markup.
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.command("plan")(plan)
app.command("train")(train)
app.command("launch")(launch)
app.command("preflight")(preflight)
app.command("status")(status)
app.command("logs")(logs)
app.command("cancel")(cancel)
app.command("report")(report)
app.command("evaluate")(evaluate)
app.command("export")(export)
app.command("fill-mask")(fill_mask)
app.command("import")(import_)
app.command("demo")(demo)
app.command("job", hidden=True)(job)
app.command("node", hidden=True)(node)
app.command("preflight-job", hidden=True)(preflight_job)
app.command("preflight-rank", hidden=True)(preflight_rank)
app.command("preflight-stages", hidden=True)(preflight_stages)

_FIRST_SPEAKS_SECONDS = 10


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"retrieva {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ["RETRIEVA_DEBUG"] = "1"


def main() -> None:
    """Run the command line; errors that a user can mend end in one message and exit code 1."""
    try:
        app(args=_without_debug(sys.argv[1:]), prog_name="retrieva")
    except (RetrievaError, DataPrepError) as error:
        if os.environ.get("RETRIEVA_DEBUG"):
            raise
        if getattr(error, "was_told", False):
            sys.exit(1)
        # Under torchrun every process finds the same fault and the first to end has the others killed. The others
        # give the first of their node the time to say it; a fault that is theirs alone they say themselves.
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(_FIRST_SPEAKS_SECONDS)
        typer.echo(f"retrieva: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission; also where output is written to
        if os.environ.get("RETRIEVA_DEBUG"):
            raise
        _write_nothing_more()
        typer.echo(f"retrieva: {error} (retrieva --debug shows where)", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("retrieva: interrupted", err=True)
        sys.exit(130)


def _without_debug(arguments: list[str]) -> list[str]:
    """Take `--debug` wherever it stands: people add it to the end of the command that failed."""
    if "--debug" in arguments:
        os.environ["RETRIEVA_DEBUG"] = "1"
    return [one for one in arguments if one != "--debug"]


def _write_nothing_more() -> None:
    """Drop what could not be written, or the interpreter fails on it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
