"""The plan of an evaluation from its options: sizes, seeds and error rates, each refused by its option's name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sailctl.core.errors import UsageError
from sailctl.core.schema.recipe import Recipe
from sailctl.core.valuation.quick import QuickPlan
from sailctl.core.valuation.race import Plan
from sailctl.core.valuation.workshop import parse_samples

if TYPE_CHECKING:
    from sailctl.core.valuation.request import EvalRequest

MOST = 2_000_000  # samples of the full size where nothing is said: the paper's
# Sizes of the rungs as shares of the full size, and the seeds of all but the last.
LADDERS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "quick-eval": ((1 / 40, 1 / 10, 1 / 4, 1), (3, 2, 1)),
    "compose-eval": ((1 / 40, 1 / 10, 1), (6, 2)),
    "incremental-eval": ((1 / 40, 1 / 10, 1), (6, 2)),
}
LEAST_STEPS = 8  # optimiser steps of a rung worth the name


def plan_for(
    request: EvalRequest, recipe: Recipe, mixture: Mapping[str, int], candidates: Mapping[str, int]
) -> Plan | QuickPlan:
    """Sizes and seeds as asked or by `LADDERS`; raises UsageError for options that cannot be meant."""
    _refuse_numbers(request)
    quick = request.command == "quick-eval"
    if quick and request.finalists > len(candidates):
        raise UsageError(f"--finalists {request.finalists}: {len(candidates)} datasets are given; ask for no more")
    rungs, seeds = _rungs(request, recipe, mixture, candidates)
    for name, size in (candidates if quick else {"the mixture": sum(mixture.values())}).items():
        if size < rungs[-1]:
            raise UsageError(
                f"{name} holds {size:,} samples, {rungs[-1]:,} are asked for; ask for fewer with --samples"
            )
    if request.strategy != "sequential":
        rungs, seeds = _one_size(request, rungs), ()
    elif request.seeds is not None:
        seeds = _seeds(request.seeds, rungs)
    elif len(seeds) != len(rungs) - 1:
        raise UsageError(f"--rungs {request.rungs}: so many want --seeds, too, a number for each but the last")
    if quick:
        finalists = request.finalists
        return QuickPlan(rungs, seeds, worth=request.worth, alpha=request.alpha, finalists=finalists, seed=request.seed)
    return Plan(rungs, seeds, worth=request.worth, margin=request.margin, alpha=request.alpha, seed=request.seed)


def _refuse_numbers(request: EvalRequest) -> None:
    """What is not a number (NaN) is within no bounds."""
    if not 0 < request.alpha < 0.5:
        raise UsageError(f"--alpha {request.alpha:g}: should be above 0 and below 0.5")
    if not 0 < request.worth < math.inf:
        raise UsageError(f"--worth {request.worth:g}: should be a number of points above 0")
    if not 0 <= request.margin < math.inf:
        raise UsageError(f"--margin {request.margin:g}: should be a number of points, 0 or more")
    if not 0 < request.fdr < 1:
        raise UsageError(f"--fdr {request.fdr:g}: should be above 0 and below 1")


def _rungs(
    request: EvalRequest, recipe: Recipe, mixture: Mapping[str, int], candidates: Mapping[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shares, seeds = LADDERS[request.command]
    if request.rungs is not None:
        rungs = tuple(parse_samples(one, "--rungs") for one in request.rungs.split(","))
        if list(rungs) != sorted(set(rungs)):
            raise UsageError(f"--rungs {request.rungs}: should be rising numbers of samples, the full size last")
        if request.samples is not None and rungs[-1] != parse_samples(request.samples, "--samples"):
            raise UsageError(
                f"--samples {request.samples}: the last of --rungs {request.rungs} is another; give one of them"
            )
        return rungs, seeds[: len(rungs) - 1]
    if request.samples is not None:
        full = parse_samples(request.samples, "--samples")
    else:  # half of a mixture, so that what is halved can be made up for
        there = min(candidates.values()) if request.command == "quick-eval" else sum(mixture.values())
        full = min(MOST, there // 2 if request.command == "compose-eval" else there)
    least = LEAST_STEPS * recipe.train.global_batch_samples
    small = [(int(full * share), seed) for share, seed in zip(shares[:-1], seeds, strict=True)]
    small = [(size, seed) for size, seed in small if least <= size < full]
    return (*(size for size, _ in small), full), tuple(seed for _, seed in small)


def _one_size(request: EvalRequest, rungs: tuple[int, ...]) -> tuple[int, ...]:
    """The full size of a strategy that makes one run of each mixture."""
    if request.seeds is not None or (request.rungs is not None and len(rungs) > 1):
        name = f"--seeds {request.seeds}" if request.seeds is not None else f"--rungs {request.rungs}"
        raise UsageError(
            f"{name}: --strategy {request.strategy} makes one run each at one size; give that alone, by --samples N"
        )
    return rungs[-1:]


def _seeds(text: str, rungs: tuple[int, ...]) -> tuple[int, ...]:
    try:
        seeds = tuple(int(one) for one in text.split(","))
    except ValueError:
        raise UsageError(f"--seeds {text}: give a number for each rung but the last") from None
    if len(seeds) != len(rungs) - 1:
        sizes = ", ".join(f"{size:,}" for size in rungs)
        raise UsageError(f"--seeds {text}: should hold one number for each size but the last of {sizes} samples")
    if min(seeds, default=1) < 1:
        raise UsageError(f"--seeds {text}: every size but the last takes one seed or more")
    return seeds
