"""The command line as a user and a script meet it: speed, exit codes, one clear line, one JSON object."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from sailctl import __version__, cli
from sailctl.commands import output
from sailctl.core.errors import CheckpointError, Interrupted, MissingExtra, UsageError
from tests.test_architecture import command_of, commands

ROOT = Path(__file__).resolve().parents[1]


def sailctl(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "sailctl", *arguments], capture_output=True, text=True, env=environment, **kwargs
    )


def app_raising(error: BaseException) -> typer.Typer:
    """A one-command app whose command fails as given, wrapped as the real commands are."""
    app = typer.Typer()

    def command() -> None:
        raise error

    app.command()(cli.guarded(command))
    return app


class TestHelp:
    def test_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from typer.testing import CliRunner; from sailctl.cli import app\n"
            "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
            "heavy = {'torch', 'transformers', 'pydantic', 'pyarrow', 'numpy', 'PIL', 'yaml', 'matplotlib'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.stdout.strip() == "[]", done.stderr

    def test_names_every_command(self) -> None:
        text = sailctl("--help").stdout
        for name in typer.main.get_command(cli.app).commands:  # type: ignore[attr-defined]
            assert f" {name} " in text

    @pytest.mark.parametrize("name", commands())
    def test_examples_survive_pasting(self, name: str) -> None:
        text = command_of(name).help
        for line in text.partition("Examples")[2].splitlines():
            assert len(line.strip()) < 76, f"{name}: help would wrap {line.strip()!r}"

    def test_short_option(self) -> None:
        assert sailctl("-h").stdout == sailctl("--help").stdout
        assert "--prompt" in sailctl("chat", "-h").stdout

    def test_without_arguments_helps(self) -> None:
        done = sailctl()
        assert done.returncode == 2 and "Usage: " in done.stderr and "pretrain" in done.stderr

    def test_version(self) -> None:
        assert sailctl("--version").stdout == f"sailctl {__version__}\n"


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (UsageError("a.yaml: unknown key 'x'"), 2, "error: a.yaml: unknown key 'x'\n"),
            (
                CheckpointError("w.safetensors: [2, 3] is\nnot [3, 2]"),
                1,
                "error: w.safetensors: [2, 3] is not [3, 2]\n",
            ),
            (
                MissingExtra("ray", "ray"),
                2,
                f"error: ray is not installed; install it with: pip install -e '{ROOT}[ray]'\n",
            ),
            (Interrupted("saved at step 3"), 130, "interrupted: saved at step 3\n"),
            (KeyboardInterrupt(), 130, "interrupted: this command did not finish\n"),
            (
                PermissionError(errno.EACCES, "Permission denied", "/runs/x"),
                1,
                "error: /runs/x: Permission denied; check its permissions\n",
            ),
        ],
    )
    def test_one_line_and_its_exit_code(self, error: BaseException, code: int, line: str) -> None:
        result = CliRunner().invoke(app_raising(error), [])
        assert (result.exit_code, result.stderr, result.stdout) == (code, line, "")

    def test_a_defect_of_ours_keeps_its_traceback(self) -> None:
        result = CliRunner().invoke(app_raising(ZeroDivisionError("ours")), [])
        assert isinstance(result.exception, ZeroDivisionError)

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["pretrian"], r"error: No such command 'pretrian'.*see: .*sailctl --help"),
            (["doctor", "--recipee", "tiny"], r"error: No such option: --recipee.*see: .*sailctl doctor --help"),
            (["pretrain"], r"error: Missing option '--stage'; see: .*sailctl pretrain --help"),
            (["bench", "--samples", "few"], r"error: Invalid value for '--samples'.*see: .*sailctl bench --help"),
        ],
    )
    def test_usage_errors_are_one_line(self, words: list[str], line: str) -> None:
        done = sailctl(*words)
        assert (done.returncode, done.stdout) == (2, "") and re.fullmatch(line + "\n", done.stderr)

    @pytest.mark.parametrize("module", ["sailctl.cli", "torch"])
    def test_an_early_ctrl_c_ends_with_its_exit_code(self, module: str) -> None:
        """Ctrl-C while a module is looked for, inside an `exec` of text, which Python answers with a signal's end."""
        code = (
            "import os, signal, sys, sailctl.__main__ as entry\n"
            "class Stop:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == {module!r}: exec('os.kill(os.getpid(), signal.SIGINT)')\n"
            "sys.meta_path.insert(0, Stop())\n"
            "sys.argv = ['sailctl', 'chat', '--prompt', 'q']\n"
            "entry.main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 130 and "Traceback" not in done.stderr

    def test_a_closed_pipe_is_quiet(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "sailctl", "--version"], stdout=write, stderr=subprocess.PIPE, env=environment
            )
        finally:
            os.close(write)
        assert (done.returncode, done.stderr) == (1, b"")


class TestOutput:
    def test_json_is_one_object_on_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.emit_json({"path": Path("a/b"), "name": "描述", "n": 1})
        assert capsys.readouterr().out == '{"path": "a/b", "name": "描述", "n": 1}\n'

    def test_json_refuses_what_is_no_json(self) -> None:
        with pytest.raises(ValueError):
            output.emit_json({"loss": float("nan")})
        with pytest.raises(TypeError):
            output.emit_json({"x": object()})

    def test_text_is_not_read_as_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.emit_text("[bold]literally[/bold]")
        output.emit_table("t", ["name", "n"], [["[red]x[/red]", "7"]])
        text = capsys.readouterr().out
        assert "[bold]literally[/bold]" in text and "[red]x[/red]" in text

    def test_text_is_printed_as_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.emit_text("a:key:b\t1:2")
        output.next_command("sailctl chat --image runs/a:key:b")
        caught = capsys.readouterr()
        assert (caught.out, caught.err) == ("a:key:b\t1:2\n", "next: sailctl chat --image runs/a:key:b\n")

    def test_reporter_writes_sparse_lines_to_stderr(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([0.0, 1.0, 20.0, 21.0])
        monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
        with output.Reporter() as reporter:
            reporter.start("alignment", 1000)
            reporter.update(50)  # too early for a line
            reporter.update(200, loss=0.51234)
            reporter.update(210)
        caught = capsys.readouterr()
        assert caught.out == ""
        assert caught.err == "alignment 200/1,000 samples  10.0/s  1m20s left  loss 0.5123\n"

    def test_reporter_counts_the_rate_of_this_session_only(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([0.0, 20.0])
        monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
        reporter = output.Reporter()
        reporter.start("sft", 1000, completed=800)
        reporter.update(900)
        assert "  5.0/s  0m20s left" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("width", "shown", "left_out"),
        [
            (40, ["1,500/3,200", "left"], ["samples/s", "loss", "━"]),
            (72, ["1,500/3,200", "left", "samples/s", "loss 0.5"], ["lr", "━"]),
            (160, ["1,500/3,200", "left", "samples/s", "loss 0.5", "tokens/s 9,000", "lr 0.02", "━"], []),
        ],
    )
    def test_a_narrow_terminal_keeps_what_matters(
        self, monkeypatch: pytest.MonkeyPatch, width: int, shown: list[str], left_out: list[str]
    ) -> None:
        written = io.StringIO()
        terminal = Console(file=written, width=width, force_terminal=True, color_system=None, legacy_windows=False)
        monkeypatch.setattr(output, "console", terminal)
        reporter = output.Reporter()
        reporter.start("alignment", 3200)
        for completed in (500, 1000, 1500):  # the time left needs a few
            reporter.update(completed, loss=0.5, **{"tokens/s": 9000, "lr": 0.02})
        reporter.finish()
        line = [line for line in written.getvalue().replace("\r", "\n").split("\n") if "1,500" in line][-1]
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
        assert len(text) < width and text.startswith("alignment")
        assert all(part in text for part in shown) and not any(part in text for part in left_out)

    def test_reporter_shows_no_progress_with_json(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([0.0, 100.0])
        monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
        reporter = output.Reporter(json=True)
        reporter.start("sft", 10)
        reporter.update(5)
        assert capsys.readouterr() == ("", "")


class TestDoctor:
    def test_describes_the_machine(self) -> None:
        done = sailctl("doctor", "--json", "--device", "cpu")
        found = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1
        assert found["devices"][0]["device"] == "cpu" and found["devices"][0]["memory_bytes"] > 0
        assert found["versions"]["sailctl"] == __version__ and found["versions"]["torch"]
        assert found["disk"]["free_bytes"] > 0 and found["threads"]["cores"] >= 1

    def test_counts_a_recipe(self) -> None:
        text = sailctl("doctor", "--recipe", "sail-vl-2b", "--device", "cpu").stdout
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
        assert rows["total"] == ["1,856,388,608", "1,856.4M"]
        assert rows["projector"] == ["8,662,016", "8.7M"]
        assert rows["alignment"][0] == "8,662,016" and rows["advance"][0] == "312,674,304"

    def test_set_alone_is_of_the_embedded_recipe(self) -> None:
        done = sailctl("doctor", "--set", "train.trainable=[llm]", "--json", "--device", "cpu")
        counted = json.loads(done.stdout)["recipe"]
        assert counted["recipe"] == "tiny" and counted["trainable"]["alignment"] == counted["parameters"]["llm"]

    def test_unknown_recipe_lists_the_known_ones(self) -> None:
        done = sailctl("doctor", "--recipe", "sail-vl-2", "--json")
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: recipe 'sail-vl-2' does not exist; did you mean 'sail-vl-2b'?")
        assert done.stderr.count("\n") == 1
