"""Registers the commands and turns an expected failure into one clear line and an exit code; imports nothing heavy."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import typer

from sailctl import commands
from sailctl.core.errors import Interrupted, SailctlError

# The order of the work, which is the order of `sailctl --help`. The module of a command holds a function of its name,
# dashes being underscores.
COMMANDS = {
    "caption": "Data",
    "curate": "Data",
    "quick-eval": "Valuation",
    "compose-eval": "Valuation",
    "incremental-eval": "Valuation",
    "scaling": "Valuation",
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

# Commands that are groups of commands, each a module of a package, in the order in which they are used.
GROUPS = {
    "curate": ("stats", "filter", "dedup", "decontaminate", "judge", "annotate", "sample", "mix", "write"),
}

# Of any option or command; Typer has no name of its own for it.
UsageMistake: type[Any] = typer.BadParameter.__mro__[1]

# Boxes and colours are for terminals. Loading them takes longer than all the rest of --help, so a pipe gets plain text.
_on_terminal = sys.stdout is not None and sys.stdout.isatty()

app = typer.Typer(
    name="sailctl",
    help="Build vision-language models the SAIL-VL way: pretrain, tune, anneal, benchmark, look at the result.",
    epilog="Start with: sailctl doctor, then sailctl pretrain --stage alignment",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich" if _on_terminal else None,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, which may hold what belongs in no log
)


def print_error(message: str, *, label: str = "error", style: str = "bold red") -> None:
    """Print the one line a failure is allowed, on standard error, with a red "error:" on a terminal."""
    from rich.console import Console
    from rich.text import Text

    line = " ".join(message.split())
    Console(stderr=True, soft_wrap=True).print(Text.assemble((f"{label}: ", style), line))


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: a SailctlError ends it with its line and exit code, a path that may not be used with 1, Ctrl-C
    with 130. Anything else is a defect of ours and keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Interrupted as stop:
            if not stop.told:
                print_error(str(stop), label="interrupted", style="bold")
            raise typer.Exit(stop.exit_code) from None
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
            print_error("this command did not finish", label="interrupted", style="bold")
            raise typer.Exit(130) from None

    return run


def register(target: typer.Typer) -> None:
    """Add every command whose module is there."""
    present = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    for name, panel in COMMANDS.items():
        module = name.replace("-", "_")
        if name in GROUPS:
            if (inner := group(name)).registered_commands:
                target.add_typer(inner, rich_help_panel=panel)
        elif module in present:
            function = getattr(importlib.import_module(f"sailctl.commands.{module}"), module)
            target.command(name, rich_help_panel=panel)(guarded(function))


def group(name: str) -> typer.Typer:
    """The commands of a group, under what its package says of it."""
    package = importlib.import_module(f"sailctl.commands.{name}")
    present = {module.name for module in pkgutil.iter_modules(package.__path__)}
    inner = typer.Typer(
        name=name,
        help=package.__doc__,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich" if _on_terminal else None,
    )
    for one in GROUPS[name]:
        if one in present:
            inner.command(one)(guarded(getattr(importlib.import_module(f"sailctl.commands.{name}.{one}"), one)))
    return inner


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
    """The console script: what Typer calls a usage error is one line, too, and a closed pipe ends it quietly."""
    code: int | None = 130
    atexit.register(lambda: _leave_interrupted() if code == 130 else None)
    try:
        code = app(standalone_mode=False)
    except UsageMistake as error:
        code = 2
        if sys.argv[1:]:
            print_usage_mistake(error)
        else:  # the help, which Typer raises as an error where nothing was asked
            error.show()  # type: ignore[attr-defined]
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        sys.stdout = None  # type: ignore[assignment]
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        pass
    except BaseException:
        code = 1
        raise
    sys.exit(code)


def print_usage_mistake(error: Any) -> None:
    """One line for a missing, unknown or misread option or command, and where the right ones are listed."""
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "sailctl"
    print_error(f"{error.format_message().strip().rstrip('.')}; see: {command} --help")


def _leave_interrupted() -> None:
    """End with 130 in any case: where Ctrl-C met a library amid `exec`, Python would otherwise end as by a signal."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(130)
