"""What an evaluation says: its record for machines, tables and reasons for people, the next command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.valuation import joint
from sailctl.core.valuation.compose import Composition, PaperStep
from sailctl.core.valuation.incremental import Admissions
from sailctl.core.valuation.quick import QuickPlan, Ranking
from sailctl.core.valuation.race import Plan, Ruling
from sailctl.core.valuation.seam import Trial, Trials

if TYPE_CHECKING:
    from sailctl.core.valuation.request import EvalRequest
    from sailctl.core.valuation.trainer import Spec
    from sailctl.core.valuation.workshop import Workshop

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


# --- records ---------------------------------------------------------------------------------------------------------


def of_quick(found: Ranking) -> dict[str, Any]:
    """The record of a ranking."""
    return {
        "ranking": [
            {
                "dataset": one.dataset,
                "place": one.place,
                "score": _number(one.score),
                "ci95": [_number(one.low), _number(one.high)],
                "seeds": one.seeds,
                "samples": one.samples,
                "left_out": one.left_out,
            }
            for one in found.standings
        ],
        "pairs": [
            {
                "first": one.first,
                "second": one.second,
                "points": _number(one.difference),
                "bounds": [_number(one.low), _number(one.high)],
                "p_value": one.p_value,
                "verdict": one.verdict,
            }
            for one in found.pairs
        ],
        "agreement": [
            {"samples": [one.smaller, one.larger], "datasets": one.datasets, "tau": _number(one.tau), "p": one.p_value}
            for one in found.agreement
        ],
        "stopped": found.stopped,
        "cost": {"samples": found.samples_used},
    }


def of_compose(found: Composition, plan: Plan) -> dict[str, Any]:
    """The record of a composition."""
    decisions = [{"name": one.group, "choice": one.choice, **_ruling(one.ruling, plan)} for one in found.decisions]
    return {"decisions": decisions, "mixture": found.mixture, "cost": {"samples": found.samples_used}}


def of_incremental(found: Admissions, plan: Plan) -> dict[str, Any]:
    """The record of admissions."""
    decisions = [
        {"name": one.dataset, "choice": one.admission, "against": list(one.against), **_ruling(one.ruling, plan)}
        for one in found.decisions
    ]
    return {"decisions": decisions, "mixture": found.mixture, "cost": {"samples": found.samples_used}}


def of_paper(
    steps: Sequence[PaperStep], mixture: Mapping[str, int], trials: Trials, better: str, otherwise: str
) -> dict[str, Any]:
    """The record of the paper's rule: scores, no error bars."""
    decisions = [
        {
            "name": step.name,
            "choice": (better if step.improved else otherwise) if known else "undecided",
            "points": _number(step.score - step.baseline),
            "bounds": None,
            "seeds": 1,
            "reason": f"{step.score:.2f} against {step.baseline:.2f}, one run each" if known else "its trials failed",
        }
        for step in steps
        for known in (math.isfinite(step.score - step.baseline),)
    ]
    return {"decisions": decisions, "mixture": dict(mixture), "cost": {"samples": trials.used}}


def of_joint(shop: Workshop, base: Mapping[str, int], full: int, trials: Trials) -> dict[str, Any]:
    """The record of a joint proposal, fitted to every full-size trial of these groups that the ledger holds."""
    observed, spec = [], shop.spec
    for row in shop.ledger.rows():
        if row["error"] or row["samples"] != full or not set(row["mixture"]) <= set(base):
            continue
        if any(count > base[name] for name, count in row["mixture"].items()):  # of other data under these names
            continue
        trial = Trial(row["mixture"], row["seed"], 0, spec.parent_id)
        if spec.key(trial) == row["key"]:  # the same content under these names
            observed.append(joint.Observed(row["mixture"], row["score"]))
    found = joint.propose(observed, base)
    decisions = [
        {
            "name": slope.group,
            "choice": "try half" if slope.group in found.halve else "keep",
            "points": -slope.points,
            "bounds": [-slope.high, -slope.low],
            "seeds": len(observed),
            "reason": f"doubling its share: {slope.points:+.2f} points",
        }
        for slope in found.slopes
    ]
    return {
        "decisions": decisions,
        "mixture": dict(found.mixture),
        "gain": {"points": found.gain, "error": found.error},
        "cost": {"samples": trials.used},
    }


def _ruling(one: Ruling, plan: Plan) -> dict[str, Any]:
    return {
        "points": _number(one.effect),
        "bounds": [_number(one.low), _number(one.high)],
        "p_value": one.p_value,
        "level": one.level,
        "seeds": one.seeds,
        "samples": plan.rungs[one.rung],
        "reason": one.reason or "shown",
        "looks": [list(look) for look in one.looks],
    }


# --- for people ------------------------------------------------------------------------------------------------------


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
            lines.append(f"orders agree from {sizes} samples: Kendall's tau {one['tau']:+.2f} (p {one['p']:.3f})")
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
    command: str,
    plan: Plan | QuickPlan,
    spec: Spec,
    workers: int,
    mixture: Mapping[str, int],
    candidates: Mapping[str, int],
) -> Verdict:
    """What would be done."""
    arms = len(candidates) + (command == "incremental-eval") if candidates else len(mixture) + 1
    seeds = plan.seeds if isinstance(plan, QuickPlan) else plan.screen
    small = sum(size * count for size, count in zip(plan.rungs[:-1], seeds, strict=True)) * arms
    rows = [
        ["groups", ", ".join(f"{name} {size:,}" for name, size in mixture.items()) or "–"],
        ["datasets", ", ".join(f"{name} {size:,}" for name, size in candidates.items()) or "–"],
        ["rungs", ", ".join(f"{size:,}" for size in plan.rungs) + " samples"],
        ["seeds of the small rungs", ", ".join(map(str, seeds)) or "–"],
        ["samples on small rungs", f"{small:,}"],
        ["samples of one full-size run", f"{plan.rungs[-1]:,}"],
        ["stage", f"{spec.recipe.name} {spec.recipe.stage} from {spec.parent or 'the recipe'}"],
        ["suite", f"{spec.suite.name}, {spec.suite.number}"],
        ["workers", f"{workers} on {', '.join(spec.devices)}"],
    ]
    about = {row[0]: row[1] for row in rows}
    return Verdict({"command": command, **about}, [(f"plan: {command}", ["setting", "value"], rows)])


def remarks(result: Mapping[str, Any]) -> list[str]:
    """The reasons, for the head of a mixture file."""
    lines = [f"Written by sailctl {result['command']} ({result['strategy']})."]
    for one in result["decisions"]:
        lines.append(" ".join(f"{one['choice']} {one['name']}: {_effect(one)}; {one['reason']}".split()))
    return lines


def next_command(request: EvalRequest, out: Path, result: Mapping[str, Any]) -> str | None:
    """Train on what was decided."""
    words = ["sailctl", *_stage_words(request.stage)]
    words += ["--recipe", request.recipe] if request.recipe else []
    words += ["--checkpoint", request.checkpoint] if request.checkpoint else []
    if "mixture" in result:
        return shlex.join([*words, "--data", str(out / MIXTURE)])
    best = result["ranking"][0]["dataset"]
    found = dict(zip(result["datasets"], request.data, strict=True)).get(best)
    return None if found is None else shlex.join([*words, "--data", found])


def _stage_words(stage: str) -> list[str]:
    from sailctl.core.train.parents import stage_words

    return stage_words(stage)[1:]


def _ranking_tables(result: Mapping[str, Any]) -> list[Table]:
    rows = [
        [
            str(one["place"]),
            one["dataset"],
            _points(one["score"]),
            _interval(one["ci95"]),
            str(one["seeds"]),
            f"{one['samples']:,}",
            one["left_out"],
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


def _number(value: float) -> float | None:
    """JSON has no infinity and no not-a-number."""
    return value if math.isfinite(value) else None
