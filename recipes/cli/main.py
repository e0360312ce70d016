"""The command line ``granite41``: all commands; each imports what it needs when it runs."""

import errno
import logging
import os
import platform
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from recipes.cli import (
    checkpoints,
    cluster,
    conversations,
    curate,
    judge,
    plan,
    prompts,
    reports,
    rollouts,
    run,
    stages,
)
from recipes.cli.data import data_app
from recipes.cli.evaluate import eval_app
from recipes.cli.grouped_help import GroupedHelp
from recipes.common import logs
from recipes.common.environment import PRELOADED, USER_ERROR_MARKER
from recipes.common.errors import LockedError, UserError
from recipes.common.multi_value import MultiValueCommand

log = logging.getLogger(__name__)

# what is wrong with a path and not with the disk; commands say more of the paths that they expect
_PATH_ERRORS = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)

app = typer.Typer(
    cls=GroupedHelp,
    help="Recipes that reproduce IBM's Granite 4.1 language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain help and usage errors: readable in a pipe, and Rich is not imported for them
    rich_markup_mode=None,
    # click suggests the nearest command by itself
    suggest_commands=False,
)


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit status 2."""
    if PRELOADED in os.environ:
        from recipes.launch.preloaded import run_in_fork

        sys.exit(run_in_fork(os.environ[PRELOADED], sys.argv[1:]))
    # torch warns so at import; nvidia-modelopt and nvidia-resiliency-ext bring the package in
    warnings.filterwarnings(
        "ignore", message="The pynvml package is deprecated", category=FutureWarning
    )
    # this project's CPU backend replaces them
    warnings.filterwarnings(
        "ignore", message="Transformer Engine and Apex are not installed", category=UserWarning
    )
    try:
        app(prog_name="granite41")
    except UserError as error:
        _exit_with(error)
    except OSError as error:
        if error.errno not in _PATH_ERRORS or not error.filename:
            raise
        log.debug("%s", error, exc_info=True)
        _exit_with(
            UserError(f"{error.filename}: {error.strerror}; check this path and its permissions")
        )
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in logs.PACKAGES:
            raise
        _exit_with(
            UserError(
                f"{sys.executable} on {platform.node()} lacks the package {package}; "
                f"install requirements.txt into it, or name another interpreter"
            )
        )


def _exit_with(error: UserError) -> NoReturn:
    print(f"granite41: {error}", file=sys.stderr)
    if USER_ERROR_MARKER in os.environ and not isinstance(error, LockedError):
        with suppress(OSError):
            Path(os.environ[USER_ERROR_MARKER]).touch()
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(version("granite41-recipes"))
        except PackageNotFoundError as error:
            raise UserError(
                "granite41-recipes is not installed, so it has no version; run `pip install -e .`"
            ) from error
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show details, and all that tasks print.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    ctx.obj = verbose
    logs.configure(verbose)


app.command("list")(stages.list_stages)
app.command()(stages.show)
app.command("check")(stages.check_recipes)
app.command("plan")(plan.plan)
app.command("run")(run.run_stages)
app.command()(run.resume)
app.command()(run.train)
app.command()(cluster.status)
app.command()(cluster.logs)
app.command()(cluster.cancel)
app.command("merge", cls=MultiValueCommand)(checkpoints.merge_checkpoints)
app.command("export")(checkpoints.export_checkpoint)
app.command("import")(checkpoints.import_folder)
app.command()(checkpoints.generate)
app.command("rollout-server")(rollouts.rollout_server)
app.command()(reports.report)
app.add_typer(reports.plot_app, name="plot")
data_app.command("curate", cls=MultiValueCommand)(curate.curate_conversations)
data_app.command("judge", cls=MultiValueCommand)(judge.judge_conversations)
data_app.command("judge-server")(judge.serve_judge)
data_app.command("judge-check")(judge.check_judge)
data_app.command("prompts", cls=MultiValueCommand)(prompts.data_prompts)
data_app.command("conversations", cls=MultiValueCommand)(conversations.public_conversations)
data_app.command("made-up")(conversations.made_up_conversations)
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.add_typer(cluster.cluster_app, name="cluster")


if __name__ == "__main__":
    main()
