"""Decisions about data on simulated truth: ours, the exhaustive design and the paper's rule, on the same campaigns.

    python benchmarks/valuation.py [--campaigns 1000] [--first 100000] [--processes 2] [--only TEXT]

Truth, unless the scenario says otherwise: 8 candidates, effects 0 for half of them and +1 or -1 point for the others;
seeds with standard deviation 0.6 points that mixtures do not share; 30,000 items, of whose noise 60 % is the same for
all; Kendall's tau 0.8 from rung to rung (50k, 200k, 2M samples). The simulator is tests/valuation/simulator.py.

Columns: false accepts (halves) of all candidates that do not improve; accepted ones of all that do (power); share of
false ones among all accepts (FDR, mean over campaigns); full-size runs a campaign (2M samples each); how many times
fewer samples ours takes than the exhaustive design: 5 seeds of the baseline and of each candidate at full size, a
one-sided paired t-test at 5 % each. "at equal power": with as many seeds as that test needs for our power. The paper's
rule is one run each; for incremental, kept where the score does not fall. Scenarios other than those
as stated get a quarter of the campaigns. Seeds start where none was looked at while defaults were chosen.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from pathlib import Path

if __name__ == "__main__":
    import os
    import sys

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are small
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.valuation.campaigns import EXHAUSTIVE_SEEDS, Count, Scenario, campaign, exhaustive_seeds

SCENARIOS = [
    Scenario("compose, as stated", "compose"),
    Scenario("incremental, as stated"),
    Scenario("compose, the paper's 5 groups", "compose", candidates=5),
    Scenario("incremental, all null", effects="null"),
    Scenario("compose, all null", "compose", effects="null"),
    Scenario("incremental, 0 and +1", effects="half_positive"),
    Scenario("compose, all +1", "compose", effects="positive"),
    Scenario("compose, half the luck is the seed's", "compose", simulator={"common": 0.5}),
    Scenario("compose, 90 % of the luck is the seed's", "compose", simulator={"common": 0.9}),
    Scenario("incremental, seeds 0.9", simulator={"seed_sd": 0.9}),
    Scenario("incremental, 3,000 items", simulator={"n": 3_000}),
    Scenario("compose, rungs say nothing", "compose", simulator={"tau": 0.0}),
    Scenario("compose, rungs 0.5 too high", "compose", simulator={"bias": 0.5}),
    Scenario("compose, luck with t(3) tails", "compose", simulator={"heavy": 3.0}),
]


def added(counts: list[Count]) -> tuple[float, float, float, float, float]:
    """False rate, power, FDR, cost a campaign, undecided a campaign."""
    nulls, goods = sum(one.nulls for one in counts), sum(one.goods for one in counts)
    return (
        sum(one.false for one in counts) / nulls if nulls else math.nan,
        sum(one.found for one in counts) / goods if goods else math.nan,
        sum(one.false / max(1, one.accepted) for one in counts) / len(counts),
        sum(one.cost for one in counts) / len(counts),
        sum(one.undecided for one in counts) / len(counts),
    )


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=1000)
    parser.add_argument("--first", type=int, default=100_000, help="seed of the first campaign")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    arguments = parser.parse_args()
    start = time.monotonic()
    print(f"{arguments.campaigns} campaigns as stated, {arguments.campaigns // 4} of each other kind")
    print("| scenario | design | false | power | FDR | full-size runs | fewer samples | at equal power |")
    print("|---|---|---|---|---|---|---|---|")
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for scenario in SCENARIOS:
            if arguments.only not in scenario.name:
                continue
            stated = scenario.name.endswith("as stated")
            count = arguments.campaigns if stated else arguments.campaigns // 4
            jobs = [(scenario, arguments.first + number) for number in range(count)]
            results = pool.map(campaign, jobs, chunksize=10)
            full = scenario.plan.rungs[-1]
            of_ours = added([one["ours"] for one in results])
            for design in ("ours", "exhaustive", "paper"):
                false, power, fdr, cost, undecided = added([one[design] for one in results])
                ratio = equal = ""
                if design == "ours":
                    exhaustive = added([one["exhaustive"] for one in results])[3]
                    ratio = f"{exhaustive / cost:.2f} x"
                    if not math.isnan(of_ours[1]):
                        seeds = exhaustive_seeds(power, scenario.plan.alpha, 1.0, gap_sd(scenario))
                        equal = f"{exhaustive / cost * seeds / EXHAUSTIVE_SEEDS:.2f} x ({seeds} seeds)"
                    equal += f", {undecided:.2f} undecided" if undecided else ""
                name = scenario.name if design == "ours" else ""
                cells = [name, design, percent(false), percent(power), percent(fdr), f"{cost / full:.1f}", ratio, equal]
                print("| " + " | ".join(cells) + " |", flush=True)
    print(f"{time.monotonic() - start:.0f} s")


def gap_sd(scenario: Scenario) -> float:
    """Standard deviation of one seed's paired difference in the simulator."""
    told = {"seed_sd": 0.6, "common": 0.0, "n": 30_000, "items_shared": 0.6, **scenario.simulator}
    items = 1e4 * 0.65 * 0.35 / told["n"] * (1 - told["items_shared"])
    return math.sqrt(2 * (told["seed_sd"] ** 2 * (1 - told["common"]) + items))


if __name__ == "__main__":
    main()
