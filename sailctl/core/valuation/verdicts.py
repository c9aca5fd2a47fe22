"""What an evaluation found, as records: JSON for machines, from which all else is told (`telling.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sailctl.core.valuation import joint
from sailctl.core.valuation.compose import Composition, PaperStep
from sailctl.core.valuation.incremental import Admissions
from sailctl.core.valuation.quick import QuickPlan, Ranking
from sailctl.core.valuation.race import Plan, Ruling
from sailctl.core.valuation.seam import Trial, Trials

if TYPE_CHECKING:
    from sailctl.core.valuation.workshop import Workshop


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
            "points": slope.points,
            "bounds": [slope.low, slope.high],
            "seeds": len(observed),
            "reason": "part of the best untried set of halvings" if slope.group in found.halve else "",
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


def plan_of(plan: Plan | QuickPlan) -> dict[str, Any]:
    """A plan as JSON."""
    names = plan.__dataclass_fields__
    values = {name: getattr(plan, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _number(value: float) -> float | None:
    """JSON has no infinity and no not-a-number."""
    return value if math.isfinite(value) else None
