"""What an evaluation says to people: tables and reasons of its record, a plan, the next command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.valuation.quick import QuickPlan
from sailctl.core.valuation.race import Plan

if TYPE_CHECKING:
    from sailctl.core.valuation.request import EvalRequest
    from sailctl.core.valuation.trainer import Spec

WIDEST = 100.0  # points; bounds further apart say nothing, as those of one seed
RECORD, MIXTURE = "decision.json", "mixture.yaml"
Table = tuple[str, list[str], list[list[str]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the command shows: JSON for machines; tables and lines for people; what to do next."""

    json: dict[str, Any]
    tables: list[Table]
    lines: list[str] = field(default_factory=list)
    next: str | None = None


def shown(result: Mapping[str, Any], out: Path) -> Verdict:
    """Tables and lines of a record."""
    tables = _ranking_tables(result) if "ranking" in result else [_decision_table(result)]
    lines = []
    if "gain" in result:
        gain = result["gain"]
        lines.append(f"the proposed mixture promises {gain['points']:+.2f} ± {gain['error']:.2f} points: a guess")
    for one in result.get("agreement", ()):
        if one["tau"] is not None:
            sizes = " to ".join(f"{size:,}" for size in one["samples"])
            count = one["datasets"]
            lines.append(
                f"order from {sizes} samples: Kendall's tau {one['tau']:+.2f} over {count} datasets (p {one['p']:.3f})"
            )
    if ahead := _shared_first(result):
        lines.append(
            f"nobody is ahead: {', '.join(ahead)} score the same; train longer, or ask more or easier questions"
        )
    if result.get("stopped"):
        lines.append(f"stopped: {result['stopped']}")
    cost = result["cost"]
    foretold = "" if cost["predicted_s"] is None else f" ({cost['predicted_s']:,.0f} foretold)"
    lines.append(
        f"cost: {len(result['trials'])} trials, {cost['samples']:,} samples, "
        f"{cost['actual_s']:,.0f} device seconds{foretold}"
    )
    lines.append(f"record: {out / RECORD}")
    if "mixture" in result:
        lines.append(f"mixture: {out / MIXTURE}")
    return Verdict(dict(result), tables, lines)


def planned(
    request: EvalRequest,
    plan: Plan | QuickPlan,
    spec: Spec,
    workers: int,
    mixture: Mapping[str, int],
    candidates: Mapping[str, int],
    first: int,
    least: int,
    seconds: float | None,
) -> Verdict:
    """What would be done: `first` trials to begin with, `least` samples at least, in so many seconds where known."""
    seeds = plan.seeds if isinstance(plan, QuickPlan) else plan.screen
    about: dict[str, Any] = {
        "groups": dict(mixture),
        "datasets": dict(candidates),
        "rungs": list(plan.rungs),
        "seeds of the small rungs": list(seeds),
        "worth": plan.worth,
        "alpha": plan.alpha,
        "budget": request.budget,
        "trials to begin with": first,
        "least samples": least,
        "least device seconds": None if seconds is None else round(seconds),
        "stage": f"{spec.recipe.name} {spec.recipe.stage} from {spec.parent or 'the recipe'}",
        "suite": f"{spec.suite.name}, {spec.suite.number}",
        "workers": f"{workers} on {', '.join(spec.devices)}",
    }
    rows = [[name, _told(value)] for name, value in about.items() if value not in ({}, [])]
    title = (f"plan: {request.command}", ["setting", "value"], rows)
    return Verdict({"command": request.command, **about}, [title])


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {size:,}" for name, size in value.items())
    if isinstance(value, list):
        return ", ".join(f"{one:,}" for one in value)
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def remarks(result: Mapping[str, Any]) -> list[str]:
    """The reasons, for the head of a mixture file."""
    lines = [f"Written by sailctl {result['command']} ({result['strategy']})."]
    for one in result["decisions"]:
        lines.append(" ".join(f"{one['choice']} {one['name']}: {_effect(one)}; {one['reason']}".split()))
    return lines


def next_command(request: EvalRequest, out: Path, result: Mapping[str, Any]) -> str | None:
    """Train on what was decided; None where nothing was."""
    if "gain" in result:  # a guess is to be tried, not to be trained on
        words = ["sailctl", "compose-eval", "--mixture", str(out / MIXTURE), "--stage", request.stage]
        return shlex.join(words + (["--checkpoint", request.checkpoint] if request.checkpoint else []))
    choices = {one["choice"] for one in result.get("decisions", ())}
    if _shared_first(result) or choices == {"undecided"}:
        return None
    words = ["sailctl", *_stage_words(request.stage)]
    words += ["--recipe", request.recipe] if request.recipe else []
    words += ["--checkpoint", request.checkpoint] if request.checkpoint else []
    if "mixture" in result:
        return shlex.join([*words, "--data", str(out / MIXTURE)])
    best = result["ranking"][0]["dataset"]
    found = dict(zip(result["datasets"], request.data, strict=True)).get(best)
    return None if found is None else shlex.join([*words, "--data", found])


def _shared_first(result: Mapping[str, Any]) -> list[str]:
    """The datasets that share the first place of a ranking, where it is shared."""
    first = [one["dataset"] for one in result.get("ranking", ()) if one["place"] == 1]
    return first if len(first) > 1 else []


def _stage_words(stage: str) -> list[str]:
    from sailctl.core.train.parents import stage_words

    return stage_words(stage)[1:]


def _ranking_tables(result: Mapping[str, Any]) -> list[Table]:
    rows = [
        [
            str(one["place"]),
            one["dataset"],
            # what left the field earlier was scored on another size: no number to stand in this column
            "–" if one["left_out"] else _points(one["score"]),
            "–" if one["left_out"] else _interval(one["ci95"]),
            str(one["seeds"]),
            f"{one['samples']:,}",
            one["left_out"] and f"{_points(one['score'])} at {one['samples']:,} samples; {one['left_out']}",
        ]
        for one in result["ranking"]
    ]
    columns = ["place", "dataset", "points", "95% interval", "seeds", "samples", "left out"]
    tables: list[Table] = [("ranking", columns, rows)]
    if result["pairs"]:
        pairs = [
            [
                one["first"],
                one["second"],
                _signed(one["points"]),
                _interval(one["bounds"]),
                f"{one['p_value']:.4f}",
                one["verdict"],
            ]
            for one in result["pairs"]
        ]
        tables.append(("finalists", ["first", "second", "difference", "bounds", "p", "first is"], pairs))
    return tables


def _decision_table(result: Mapping[str, Any]) -> Table:
    rows = [
        [
            one["name"],
            one["choice"],
            _signed(one["points"]),
            "–" if one["bounds"] is None else _interval(one["bounds"]),
            str(one["seeds"]),
            f"{one['samples']:,}" if "samples" in one else "–",
            one["reason"],
        ]
        for one in result["decisions"]
    ]
    what = "dataset" if result["command"] == "incremental-eval" else "group"
    title = "effect of adding it, in points" if what == "dataset" else "effect of halving it, in points"
    if "gain" in result:
        title = "effect of doubling its share, in points: a fit to all mixtures that were tried"
    return title, [what, "decision", "effect", "bounds", "seeds", "at samples", "reason"], rows


def _effect(one: Mapping[str, Any]) -> str:
    bounds = "" if one["bounds"] is None else f" ({_interval(one['bounds'])})"
    return f"{_signed(one['points'])} points{bounds}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:z.2f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+z.2f}"


def _interval(bounds: Sequence[float | None]) -> str:
    low, high = (value if value is not None else sign * math.inf for value, sign in zip(bounds, (-1, 1), strict=True))
    if high - low > WIDEST:
        return "–"
    return f"{low:z.2f} to {high:z.2f}"
