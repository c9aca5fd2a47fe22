"""The scorer's process: which interpreter, what it is told, how long it may take, and what its end means."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.bench.headline import ScoringError
from sailctl.core.errors import SailctlError, UsageError, install_command
from sailctl.core.files import write_json

if TYPE_CHECKING:
    from sailctl.core.bench.judge_proxy import JudgeProxy

PYTHON_VARIABLE = "SAILCTL_SCORER_PYTHON"
TIMEOUT_S = 3600.0
CHECKED_S = 0.1
TAIL_LINES = 4
READY = ".ready"  # see scorer_script.py
SCRIPT = Path(__file__).with_name("scorer_script.py")
# What the process is given of our environment: how to find programs, libraries and folders, and no key.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE")
CHECK = "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in ('vlmeval', 'pandas')))"


def find_python(given: Path | None = None) -> Path:
    """The interpreter that has VLMEvalKit: the one given, $SAILCTL_SCORER_PYTHON, a checkout's own, or this one.

    Raises UsageError where it is no interpreter or lacks the kit.
    """
    checkout = Path(__file__).resolve().parents[3] / ".venv-scorer" / "bin" / "python"
    if given is not None:
        python = given
    elif named := os.environ.get(PYTHON_VARIABLE):
        python = Path(named)
    else:
        python = checkout if checkout.is_file() else Path(sys.executable)
    try:
        checked = subprocess.run([python, "-I", "-c", CHECK], env=_environment(), capture_output=True, timeout=120)
    except OSError as error:
        raise UsageError(
            f"{python}: cannot be started ({error.strerror}); give --scorer-python the interpreter of an environment "
            "with VLMEvalKit"
        ) from None
    if checked.returncode != 0:
        raise UsageError(
            f"VLMEvalKit is not installed for {python}; install it with: {install_command('bench')}, or point "
            f"--scorer-python or {PYTHON_VARIABLE} at the interpreter of an environment that has it"
        )
    return python


def run(
    jobs: Sequence[Mapping[str, Any]], work: Path, python: Path, judge: JudgeProxy | None, timeout_s: float
) -> list[dict[str, Any] | SailctlError]:
    """Have `scorer_script.py` do the jobs; of each what it wrote, or why it wrote nothing.

    A job that takes the process with it, or more than `timeout_s`, costs that job alone: the rest get a new process,
    unless the kit could not be loaded.
    Raises what stopped the judge.
    """
    log = work.absolute() / "scorer.log"
    results: list[dict[str, Any] | SailctlError] = []
    with open(log, "wb") as lines:
        while len(results) < len(jobs):
            rest = jobs[len(results) :]
            told = work.absolute() / "jobs.json"
            write_json(told, rest)
            ready = told.with_name(told.name + READY)
            ready.unlink(missing_ok=True)
            ended = _process(
                [str(python), "-I", "-u", "-X", "utf8", str(SCRIPT), str(told)], lines, rest, judge, timeout_s
            )
            for job in rest:
                if not (written := Path(job["result"])).is_file():
                    results.append(ScoringError(f"{job['name']}: {ended}; its log is {log}: {_tail(log)}"))
                    if ready.is_file():
                        break
                    continue  # the kit cannot even be loaded: the others would fare no better
                result = json.loads(written.read_text(encoding="utf-8"))
                if "error" in result:
                    why = ""
                    if judge is None and "API" in result["error"]:
                        why = "; this benchmark cannot be scored without a judge"
                    elif judge is not None and judge.failures and "judge" in result["error"]:
                        why = f"; the judge: {next(iter(judge.failures.values()))}"
                    result = ScoringError(f"{job['name']}: VLMEvalKit failed: {result['error']}{why}; its log is {log}")
                results.append(result)
    return results


def _process(
    argv: Sequence[str], log: Any, jobs: Sequence[Mapping[str, Any]], judge: JudgeProxy | None, timeout_s: float
) -> str:
    """Run until it ends or must be ended; how it ended, in words."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(judge), start_new_session=True
    )
    done, since = 0, time.monotonic()
    try:
        while process.poll() is None:
            if judge is not None and judge.stopped is not None:
                raise judge.stopped
            now_done = sum(Path(job["result"]).is_file() for job in jobs)
            if now_done > done:
                done, since = now_done, time.monotonic()
            elif time.monotonic() - since > timeout_s:
                return f"VLMEvalKit took more than {timeout_s:g} s"
            time.sleep(CHECKED_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # with the workers it may have left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if judge is not None and judge.stopped is not None:
        raise judge.stopped
    code = process.returncode
    return f"VLMEvalKit was ended by signal {-code}" if code < 0 else f"VLMEvalKit ended with exit code {code}"


def _environment(judge: JudgeProxy | None = None) -> dict[str, str]:
    given = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    given |= {
        "PRED_FORMAT": "tsv",  # sheets lose long cells
        "EVAL_FORMAT": "csv",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # scoring needs no accelerator, whose driver may be missing there
        "no_proxy": "*",
    }
    if judge is not None:
        given |= {"OPENAI_API_KEY": judge.key, "OPENAI_API_BASE": judge.url}
    return given


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-TAIL_LINES:])[-600:]
