"""Registers the commands and turns an expected failure into one clear line and an exit code; imports nothing heavy."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import typer

from sailctl import commands
from sailctl.core.errors import SailctlError

# The order of the work, which is the order of `sailctl --help`. The module of a command holds a function of its name.
COMMANDS = {
    "pretrain": "Training",
    "sft": "Training",
    "anneal": "Training",
    "bench": "Results",
    "report": "Results",
    "chat": "Results",
    "export": "Results",
    "plan": "Helpers",
    "synth": "Helpers",
    "verify": "Helpers",
    "doctor": "Helpers",
}

# Boxes and colours are for terminals. Loading them takes longer than all the rest of --help, so a pipe gets plain text.
_on_terminal = sys.stdout is not None and sys.stdout.isatty()

app = typer.Typer(
    name="sailctl",
    help="Build vision-language models the SAIL-VL way: pretrain, tune, anneal, benchmark, look at the result.",
    epilog="Start with: sailctl doctor, then sailctl pretrain --stage alignment",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich" if _on_terminal else None,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, which may hold what belongs in no log
)


def print_error(message: str) -> None:
    """Print the one line a failure is allowed, on standard error, with a red "error:" on a terminal."""
    from rich.console import Console
    from rich.text import Text

    line = " ".join(message.split())
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), line))


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: a SailctlError ends it with its line and exit code, a path that may not be used with 1, Ctrl-C
    with 130. Anything else is a defect of ours and keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except SailctlError as error:
            if not error.told:
                print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except PermissionError as error:  # any path may have been made by somebody else
            if error.filename is None:
                raise
            print_error(f"{error.filename}: {error.strerror}; check its permissions")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print_error("interrupted")
            raise typer.Exit(130) from None

    return run


def register(target: typer.Typer) -> None:
    """Add every command whose module is there."""
    present = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    for name, panel in COMMANDS.items():
        if name in present:
            function = getattr(importlib.import_module(f"sailctl.commands.{name}"), name)
            target.command(name, rich_help_panel=panel)(guarded(function))


def version_line(wanted: bool) -> None:
    """Print the version and end, before any command is looked at."""
    if wanted:
        from sailctl import __version__

        typer.echo(f"sailctl {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=version_line, is_eager=True),
) -> None:
    """Build vision-language models the SAIL-VL way: pretrain, tune, anneal, benchmark, look at the result."""


register(app)


def main() -> None:
    """The console script. A closed pipe ends it quietly."""
    try:
        app()
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(1)
