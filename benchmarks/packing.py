"""Our packer against best fit on one stream of lengths: balance over ranks, fill, waiting, time per sample.

    python benchmarks/packing.py [--lengths CSV | --long] [--tokens 16384] [--tiles 48] [--ranks 64] [--stage S]

Without --lengths: 35,000 samples, 12 % of them text alone (log-normal lengths), the others 1 to 12 tiles (and a
thumbnail) of 256 tokens with some text; with --long 30,000, half of them text alone, half of that over 4,000 tokens and
some at the cap. Costs are those of the `sail-vl-2b` recipe's stage. Best fit keeps 32 samples
and always adds the longest that still fits, as training code for packed multimodal models commonly does; it knows
tokens only, so its packs may hold more tiles than the cap. Both are timed in turn, five times; medians count.

Efficiency is what ranks compute of what they could while all wait for the slowest: "sum" where they meet once a step,
"module" where they meet in every layer.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sailctl.core.data.choose import WINDOW, CostPacker, Costs, Target
from sailctl.core.data.pack_target import PROBED, pack_target
from sailctl.core.data.simulate import Length
from sailctl.core.model.flops import ModelFlops
from sailctl.core.model.presets import model_config
from sailctl.core.schema.load import load_recipe

Dealt = list[list[list[Length]]]  # per rank its packs, unfinished ones left out


def generated(count: int = 35_000, seed: int = 0) -> list[Length]:
    draw, lengths = random.Random(seed), []
    for row in range(count):
        tiles = 0 if draw.random() < 0.12 else draw.randint(1, 12)
        tiles += tiles > 1
        words = 15 + int(draw.lognormvariate(4.7 if tiles else 5.8, 0.9))
        lengths.append(Length(row, min(16_384, 256 * tiles + words), tiles, words // 2))
    return lengths


def half_long(count: int = 30_000, seed: int = 7) -> list[Length]:
    draw, lengths = random.Random(seed), []
    for row in range(count):
        if draw.random() < 0.5:
            tiles, words = 0, int(draw.lognormvariate(8.3, 0.7)) + 20
        else:
            tiles = draw.randint(1, 12)
            tiles += tiles > 1
            words = int(draw.lognormvariate(5, 0.8)) + 10
        lengths.append(Length(row, min(16_384, 256 * tiles + words), tiles, words // 2))
    return lengths


def from_csv(path: Path) -> list[Length]:
    """Columns tokens and tiles; half of a sample's text is taken to be supervised."""
    with open(path, encoding="utf-8") as file:
        rows = [(int(row["tokens"]), int(row["tiles"])) for row in csv.DictReader(file)]
    return [Length(n, tokens, tiles, max(0, tokens - 256 * tiles) // 2) for n, (tokens, tiles) in enumerate(rows)]


def ours(lengths: list[Length], costs: Costs, ranks: int, tokens: int, tiles: int, target: Target) -> Dealt:
    packers: list[CostPacker[Length]] = [CostPacker(tokens, tiles, WINDOW, costs, target) for _ in range(ranks)]
    dealt: Dealt = [[] for _ in range(ranks)]
    for number, length in enumerate(lengths):
        dealt[number % ranks] += packers[number % ranks].add(length)
    return dealt


def best_fit(lengths: list[Length], ranks: int, tokens: int, waiting: int = 32) -> Dealt:
    def packs() -> Iterator[list[Length]]:
        pool: list[Length] = []
        pack: list[Length] = []
        room = tokens
        source = iter(lengths)
        while True:
            fitting = [item for item in pool if item.num_tokens <= room]
            if fitting:
                longest = max(fitting, key=lambda item: item.num_tokens)
                pool.remove(longest)
                pack.append(longest)
                room -= longest.num_tokens
            elif len(pool) < waiting:
                item = next(source, None)
                if item is None:
                    return
                pool.append(item)
            else:
                yield pack
                pack, room = [], tokens

    dealt: Dealt = [[] for _ in range(ranks)]
    for number, pack in enumerate(packs()):
        dealt[number % ranks].append(pack)
    return dealt


def describe(name: str, dealt: Dealt, costs: Costs, seconds: float, count: int) -> None:
    steps = min(map(len, dealt))
    once, layered, tokens, most = [], [], 0, 0
    for step in range(steps):
        packs = [packs[step] for packs in dealt]
        pairs = [[sum(part) for part in zip(*map(costs.of, pack), strict=True)] for pack in packs]
        work = sum(map(sum, pairs))
        once.append(work / (len(pairs) * max(map(sum, pairs))))
        layered.append(work / (len(pairs) * (max(v for v, _ in pairs) + max(m for _, m in pairs))))
        tokens += sum(item.num_tokens for pack in packs for item in pack)
        most = max(most, *(sum(item.num_tiles for item in pack) for pack in packs))
    print(
        f"{name:14s} efficiency sum {statistics.mean(once):.4f}  module {statistics.mean(layered):.4f}  "
        f"tokens a pack {tokens / steps / len(dealt):8,.0f}  most tiles {most:3d}  "
        f"{seconds / count * 1e6:5.1f} us a sample"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--long", action="store_true", help="half of the samples long texts")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--tiles", type=int, default=48)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--stage", default="instruction")
    args = parser.parse_args()
    lengths = from_csv(args.lengths) if args.lengths else half_long() if args.long else generated()
    recipe, _ = load_recipe("sail-vl-2b", args.stage, [])
    flops = ModelFlops.of(model_config(recipe.model), recipe.train.trainable)
    costs = Costs(flops.per_tile, flops.per_token, flops.per_target, flops.per_square)
    targets: dict[str, Target] = {}
    rehearsed: dict[str, float] = {}
    for balance in ("sum", "module"):
        began = time.perf_counter()
        caps = {"tokens": args.tokens, "tiles": args.tiles}
        _, targets[balance] = pack_target(lengths[:PROBED], costs, **caps, balance=balance)  # type: ignore[arg-type]
        rehearsed[f"ours, {balance}"] = time.perf_counter() - began
    contenders: dict[str, Callable[[], Dealt]] = {
        "best fit": lambda: best_fit(lengths, args.ranks, args.tokens),
        "ours, sum": lambda: ours(lengths, costs, args.ranks, args.tokens, args.tiles, targets["sum"]),
        "ours, module": lambda: ours(lengths, costs, args.ranks, args.tokens, args.tiles, targets["module"]),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, Dealt] = {}
    for _ in range(5):
        for name, run in contenders.items():
            began = time.perf_counter()
            found[name] = run()
            times[name].append(time.perf_counter() - began)
    print(f"{len(lengths):,} samples, {args.ranks} ranks, caps {args.tokens} tokens and {args.tiles} tiles")
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, dealt in found.items():
        describe(name, dealt, costs, medians[name], len(lengths))
    for name in ("ours, sum", "ours, module"):
        share = medians[name] / medians["best fit"]
        print(f"{name} takes {share:.2f} times as long as best fit, and {rehearsed[name]:.2f} s once for its target")


if __name__ == "__main__":
    main()
