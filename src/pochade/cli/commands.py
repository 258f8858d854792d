"""All commands. Each file holds a group of commands; torch is imported by those that need it, when they
run."""

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

import pochade
from pochade.cli import (
    ablate,
    cache,
    data,
    data_check,
    data_generate,
    edit,
    evaluate,
    export,
    generate,
    merge,
    models,
    plan,
    profile,
    run,
    runs,
    train,
)
from pochade.cli.common import complain, debug_requested, is_of_others, processes
from pochade.cli.usage import Commands
from pochade.errors import PochadeError, as_given
from pochade.files import describe_error
from pochade.stopping import EXIT_CODE, Stop

EPILOG = """Start with: pochade generate "a red apple" -o out/

Every command has examples: pochade generate --help

Exit codes: 1 failure, 2 wrong use, 130 Ctrl-C."""

FIELDS = {"ignore_unknown_options": True}
"""Of commands that take FIELD=VALUE, which look at unknown options themselves (``common.check_no_options``)."""

app = typer.Typer(
    name="pochade",
    cls=Commands,
    help="Generate with, train, measure and export compact text-to-image models.",
    epilog='Start with: pochade generate "a red apple" -o out/        Exit codes: 1 failure, 2 wrong use, 130 Ctrl-C.',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pochade {pochade.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Allowed anywhere.")] = False,
) -> None:
    # Both are acted on before any command: the first by its callback, the second by ``main``.
    del version, debug


app.command("generate", epilog=generate.EXAMPLES)(generate.generate)
app.command("edit", epilog=edit.EXAMPLES)(edit.edit)
app.command("inpaint", epilog=edit.INPAINT_EXAMPLES)(edit.inpaint)
app.command("upscale", epilog=edit.UPSCALE_EXAMPLES)(edit.upscale)
app.command("models")(models.models)
app.command("info")(models.info)
app.command("train", epilog=train.EXAMPLES, context_settings=FIELDS)(train.train)
app.command("cache", epilog=cache.EXAMPLES, context_settings=FIELDS)(cache.cache)
app.command("plan", epilog=plan.EXAMPLES, context_settings=FIELDS)(plan.plan)
app.command("runs", epilog=runs.EXAMPLES)(runs.runs)
app.command("ablate", epilog=ablate.EXAMPLES, context_settings=FIELDS)(ablate.ablate)
data.data.command("check")(data_check.check)
data.data.command("generate")(data_generate.generate)
app.add_typer(data.data, name="data")
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("profile", epilog=profile.EXAMPLES)(profile.profile)
app.command("merge", epilog=merge.EXAMPLES)(merge.merge)
app.command("export", epilog=export.EXAMPLES)(export.export)
# All arguments go to a parser that also installs without typer.
app.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)(run.run)


def start(arguments: Sequence[str], stop: Stop) -> None:
    """Run the command line and leave the process with its exit code; ``stop`` says whether it was told to."""
    arguments, debug = debug_requested(list(arguments))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it cannot encode is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: complain("warning", as_given(str(message)))
            warnings.simplefilter("default", UserWarning)  # each once, however often it is met
            # These are for those who work on pochade and the libraries below it.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            app(arguments, prog_name="pochade")
    except SystemExit as leave:
        if leave.code == EXIT_CODE:
            stop.arrived()
            # typer has made an exit of the KeyboardInterrupt; a training run says in it where it stopped.
            reason = leave.__context__ and leave.__context__.__cause__
            complain("interrupted", reason if reason and str(reason) else "stopped by Ctrl-C")
        elif stop.reason is not None:
            _leave(stop, debug)
        raise
    except PochadeError as error:
        _leave(stop, debug)
        if debug:
            raise
        complain("error", error)
        sys.exit(error.exit_code)
    except OSError as error:
        _leave(stop, debug)
        if debug:
            raise
        complain("error", describe_error(error))
        sys.exit(1)
    except Exception as error:
        _leave(stop, debug)
        if debug:
            raise
        if is_of_others(error):
            complain("error", f"another of the {processes()[1]} processes has ended, or cannot be reached: {error}")
            sys.exit(1)
        complain("error", f"unexpected {type(error).__name__}: {error} (--debug shows the traceback)")
        sys.exit(1)


def _leave(stop: Stop, debug: bool) -> None:
    """Leaves the process where it was told to stop: whatever error there is then came of it."""
    if stop.reason is not None and not debug:
        stop.arrived()
        complain("interrupted", stop.reason)
        sys.exit(EXIT_CODE)
