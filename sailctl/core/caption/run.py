"""A captioning command at work: from its options to the report, and to why it is not done where it is not."""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import nullcontext
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from sailctl.core.caption.display import Display
from sailctl.core.caption.job import JOURNALS, Job
from sailctl.core.caption.report import write_report
from sailctl.core.caption.request import CaptionRequest
from sailctl.core.caption.shards import listed
from sailctl.core.caption.sidecar import manifest_path
from sailctl.core.caption.spend import TOKENS, spent, tokens
from sailctl.core.caption.worker import STOP, Part, Progress, heard, together, work, work_here
from sailctl.core.engines.ask import Engine
from sailctl.core.engines.choice import CAP_REACHED, EngineChoice, open_local
from sailctl.core.errors import DataError, Interrupted, SailctlError, UsageError
from sailctl.core.files import storage_errors
from sailctl.core.journal import try_lock
from sailctl.core.reporter import Reporter
from sailctl.core.workers import map_parts, stop_signals

OTHERS_S = 60.0  # how long another command's shards are waited for at the end
KEPT = " and start again, what is done is kept"  # the pool's words: we say it with the command


def run(request: CaptionRequest, reporter: Reporter) -> tuple[dict[str, Any], SailctlError | None]:
    """Caption; returns the report, and what kept the job from being done, saying how to go on.

    Raises SailctlError where nothing could begin.
    """
    job, choice = request.job(), request.choice()
    index, count = request.job_share()
    processes = request.workers()
    local = open_local(choice) if choice.kind == "local" else None
    if local is not None and request.model is None:  # named by its weights, which are known only now
        job = replace(job, model=local.model)
    job.check()  # before servers load for minutes; what cannot be served leaves no folder behind
    show, began, told, failure = Display(reporter), time.monotonic(), Progress(), None
    claimed = False
    try:
        with _servers(choice, reporter) as served:
            job, claimed, began = job.claim(), True, time.monotonic()
            for line in job.news:
                reporter.info(line)
            part = Part(
                job,
                served,
                worker=index * processes,
                workers=count * processes,
                processes=processes,
                retry=request.retry or request.only is not None,
                only=request.only or "",
                needs_key=bool(served.key_env and os.environ.get(served.key_env)),
            )
            told = _work(request, part, reporter, show, local)
            for line in told["remarks"]:
                reporter.info(line)
            _judge(request, job, told)
    except SailctlError as error:
        if not claimed:
            raise
        failure = _explained(error, request, job, choice)
    session = _session(request, job, told or show.last, time.monotonic() - began)
    report = write_report(job, choice, session, "" if failure is None else str(failure))
    if failure is None and report["complete"]:
        failure = _nothing(report)
        report |= {} if failure is None else {"error": str(failure)}
    return report, failure


def _session(request: CaptionRequest, job: Job, told: Progress, seconds: float) -> dict[str, Any]:
    """What this command did."""
    fresh = told.get("samples", 0) - told.get("before", 0)
    engine = told.get("engine", {})
    limits = {
        "--in-flight": request.in_flight,
        "--requests-per-minute": request.requests_per_minute,
        "--tokens-per-minute": request.tokens_per_minute,
    }
    return {
        "samples": fresh,
        "seconds": round(seconds, 3),
        "per_s": round(fresh / max(seconds, 1e-9), 3),
        "answered": told.get("answered", 0),
        "failed": told.get("failed", 0),
        "requests": told.get("requests", 0),
        "tokens": {name: told.get(name, 0) for name in TOKENS},
        "limit_by": engine.get("limit_by", "unknown"),
        "options": {name: value for name, value in limits.items() if value is not None},
        "engine": engine,
        "retry": job.replay,
    }


def _servers(choice: EngineChoice, reporter: Reporter) -> Any:
    """A context that gives the choice with the addresses of servers that were started for it."""
    if choice.kind != "lmdeploy":
        return nullcontext(choice)
    from sailctl.core.caption.servers import served

    return served(choice, reporter.info)


def _work(request: CaptionRequest, part: Part, reporter: Reporter, show: Display, local: Engine | None) -> Progress:
    with stop_signals() as asked:
        if part.processes == 1 and request.ray is None:
            told = work_here(part, asked, show, local)
        else:
            channel = part.job.out / f".progress-{socket.gethostname()}-{os.getpid()}"
            with storage_errors(channel):
                _clear_channels(channel)
                channel.mkdir(parents=True, exist_ok=True)

            def tick() -> None:
                if words := heard(channel):
                    show(words)
                if asked():
                    (channel / STOP).touch()

            first = replace(part, channel=channel)
            parts = [replace(first, worker=first.worker + number) for number in range(part.processes)]
            try:
                told = together(map_parts(work, parts, tick, ray=request.ray))
            finally:
                tick()
                shutil.rmtree(channel, ignore_errors=True)
        deadline, words = time.monotonic() + OTHERS_S, "waiting for another command's {} of the data shards"
        while not (told["stopped"] or asked()) and time.monotonic() < deadline:
            left = _unsealed(part.job, told)
            if not any(_is_held(part.job, unit) for unit in left):
                break
            if words:
                reporter.info(words.format(len(left)))
                words = ""
            time.sleep(0.25)
        return told


def _unsealed(job: Job, told: Progress) -> list[str]:
    """Units another command had in work that are not sealed."""
    return [unit for unit in told["busy"] if not manifest_path(job.out, unit).is_file()]


def _is_held(job: Job, unit: str) -> bool:
    """Whether somebody has a unit in work."""
    try:
        with open(job.out / JOURNALS / f"{unit}.jsonl", "rb") as handle:
            return not try_lock(handle, handle.name)
    except FileNotFoundError:
        return False


# --- how it ended ----------------------------------------------------------------------------------------------------


def _judge(request: CaptionRequest, job: Job, told: Progress) -> None:
    """Raise what keeps the job from being done."""
    if told["stopped"]:
        raise Interrupted(
            f"stopped; what is sealed is in {job.out}, what was answered beyond it is noted; go on with: "
            f"{request.command_line()}"
        )
    if broken := told["broken"]:
        raise DataError(
            f"{len(broken):,} of the data shards could not be read, the others are done: {'; '.join(broken[:3])}"
            f"{'; …' if broken[3:] else ''}; mend or replace that and go on with: {request.command_line()}"
        )
    if left := _unsealed(job, told):
        ended = "" if any(_is_held(job, unit) for unit in left) else ", which has ended"
        raise SailctlError(
            f"the others are done, but another command had data shards in work that are not ({listed(left)}){ended}; "
            f"see to them with: {request.command_line()}"
        )
    if request.only is not None and not told["requests"]:
        raise UsageError(f"--only {request.only}: nothing was given up of a sample with that key or id in {job.out}")


def _nothing(report: dict[str, Any]) -> SailctlError | None:
    """Why a job that is done is of no use; None where it is."""
    if not report["samples"]:
        return DataError("the data hold no samples: nothing was captioned; check --data")
    if not any(task["captioned"] for task in report["tasks"].values()):
        reasons = ", ".join(f"{name} {count:,}" for name, count in (
            *report["rejected"]["reasons"].items(), *report["quarantined"].items()
        ))  # fmt: skip
        again = f"; to ask once more: {report['session']['retry']}" if report["quarantined"] else ""
        return DataError(f"none of {report['samples']:,} samples has a caption ({reasons}); see {report['out']}{again}")
    return None


def _explained(error: SailctlError, request: CaptionRequest, job: Job, choice: EngineChoice) -> SailctlError:
    """The same failure, saying that nothing answered is lost and how to go on; usage errors stay as they are."""
    if isinstance(error, UsageError | Interrupted) or request.command_line() in str(error):
        return error
    line = str(error).replace(KEPT, "")
    if line.startswith(CAP_REACHED):
        line = (
            f"{CAP_REACHED}: the job has cost {choice.cost(*tokens(spent(job.out))):.6g} of --max-cost "
            f"{choice.max_cost:g}, and another request might pass it; raise it to ask more"
        )
    if "denied" in line and request.key_env and not os.environ.get(request.key_env):
        line += f"; {request.key_env} is not set, so no key was sent"
    raised = SailctlError(f"{line}; what was answered is kept, go on with: {request.command_line()}")
    raised.exit_code = error.exit_code
    return raised


def _clear_channels(own: Path) -> None:
    """Remove what commands on this machine that were killed left of theirs."""
    prefix = own.name.rpartition("-")[0]
    for folder in own.parent.glob(f"{escape(prefix)}-*"):
        pid = folder.name.rpartition("-")[2]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
