"""Non-padding tokens/s of a full training step: our packs against stock transformers in padded micro-batches of 8.

python benchmarks/train_step.py                              # a mix: 12% text only, 1 to 12 tiles, wide lengths
python benchmarks/train_step.py --lengths sample_lengths.csv # the lengths of real data (columns tokens, tiles)

One round is forward, loss and backward over the same samples with the same weights in float32. Three paths take turns,
micro-batch by micro-batch and pack by pack: stock `InternVLForConditionalGeneration` with its own loss, labels -100
where nothing is supervised; our model on the same padded rows; our model on packs. Tokens a tile are fewer than the
real 256, and every length is scaled alike, so that a laptop can run it. Seconds are of one thread's processor time,
which other work on the machine disturbs least; the losses of the three paths must agree.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import workload

from sailctl.core.data.packing import Encoded, Pack
from sailctl.core.device import pick
from sailctl.core.model.presets import preset
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.model import ModelConfig
from sailctl.core.train.loss import pack_loss

REAL = ("sail-vl-2b", "sail-vl-8b")  # whose FLOP ratios stand beside those of the small model that is run


def main() -> None:
    """Measure one stream and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(workload.STAGES), default="sft")
    parser.add_argument("--lengths", type=Path, help="CSV with columns tokens and tiles; without it the mix")
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--pack-tokens", type=int, default=16384, help="cap of a pack at full scale; 48 tiles of 16384")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="with more than one add --wall")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wall", action="store_true", help="wall-clock time, for a machine that does nothing else")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options)
    print(json.dumps(result) if options.json else describe(result))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All three paths over one stream."""
    config = workload.LAPTOP
    trainable = workload.STAGES[options.stage]
    torch.manual_seed(options.seed)
    ours = VisionLanguageModel(config, image_token_id=config.llm.vocab_size - 1).train()
    stock = workload.stock_twin(ours).train()
    ours.freeze(trainable)
    workload.freeze_stock(stock, trainable)

    full = (
        workload.listed_sizes(options.lengths, options.samples, options.seed)
        if options.lengths
        else workload.mixed_sizes(options.samples, options.seed)
    )
    sizes = [workload.scaled(size, config.tokens_per_tile) for size in full]
    samples = [workload.sample_of(size, config, ours.image_token_id, options.seed) for size in sizes]
    tokens, tiles = pack_caps(config, options.pack_tokens)
    packs = workload.pack_all(sizes, samples, config, options.stage, tokens=tokens, tiles=tiles)
    batches = [workload.pad(batch) for batch in in_turn(samples, options.micro_batch)]
    targets = sum(batch.num_targets for batch in batches)

    def step(loss: torch.Tensor) -> float:
        """One item's backward pass; its loss, summed over targets."""
        if loss.requires_grad:
            (loss / targets).backward()
        return loss.item()

    paths: dict[str, list[Callable[[], float]]] = {
        "stock": [lambda b=batch: step(workload.stock_loss(stock, b) * b.num_targets) for batch in batches],
        "padded": [lambda b=batch: step(workload.padded_loss(ours, b)) for batch in batches],
        "packed": [lambda p=pack: step(pack_loss(ours, p)) for pack in packs],
    }
    ceiling = pick("cpu").gemm_flops(torch.float32)
    clock = time.perf_counter if options.wall else time.process_time
    seconds: dict[str, list[list[float]]] = {name: [] for name in paths}  # a list for every round, of its items
    losses: dict[str, float] = {}
    for turn in range(options.rounds + 1):  # the first warms up
        for model in (ours, stock):
            model.zero_grad(set_to_none=True)
        losses = dict.fromkeys(paths, 0.0)
        spent: dict[str, list[float]] = {name: [] for name in paths}
        for name, item in taking_turns(paths):
            start = clock()
            losses[name] += item() / targets
            spent[name].append(clock() - start)
        assert max(losses.values()) - min(losses.values()) < 1e-4 * losses["stock"], losses
        for name in paths if turn else ():
            seconds[name].append(spent[name])

    return report(options, ours, full, samples, packs, losses, seconds, ceiling)


def in_turn(samples: Sequence[Any], micro_batch: int) -> list[Sequence[Any]]:
    """The micro-batches of a stream."""
    return [samples[start : start + micro_batch] for start in range(0, len(samples), micro_batch)]


def taking_turns(paths: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    """All items, each path's in order, so that the paths come along evenly: what slows the machine slows them all."""
    places = [(index / len(items), name, item) for name, items in paths.items() for index, item in enumerate(items)]
    return [(name, item) for _, name, item in sorted(places, key=lambda place: place[0])]


def pack_caps(config: ModelConfig, full_tokens: int) -> tuple[int, int]:
    """Tokens and tiles of a pack: the recipes' 16,384 and 48 in proportion, tokens scaled like lengths."""
    return full_tokens * config.tokens_per_tile // workload.FULL_TOKENS_PER_TILE, 48 * full_tokens // 16384


def report(
    options: argparse.Namespace,
    ours: VisionLanguageModel,
    full: Sequence[workload.Size],
    samples: Sequence[Encoded],
    packs: Sequence[Pack],
    losses: dict[str, float],
    seconds: dict[str, list[list[float]]],
    ceiling: float,
) -> dict[str, Any]:
    """The figures of one run."""
    config = ours.config
    tokens = sum(sample.num_tokens for sample in samples)
    tiles = [sample.num_tiles for sample in samples]
    # of every micro-batch and pack the median round: a busy second spoils one item of one round, not a path
    median_s = {name: sum(map(median, zip(*rounds, strict=True))) for name, rounds in seconds.items()}
    batches = in_turn(samples, options.micro_batch)
    flops = {
        "stock": workload.stock_flops(config, options.stage, batches),
        "padded": workload.padded_flops(config, options.stage, batches),
        "packed": workload.packed_flops(config, options.stage, samples),
    }
    rows = in_turn(full, options.micro_batch)
    return {
        "stream": str(options.lengths) if options.lengths else "mix",
        "stage": options.stage,
        "model": {
            "tower": f"{config.vision.num_layers} layers x {config.vision.hidden_size}",
            "llm": f"{config.llm.num_layers} layers x {config.llm.hidden_size} (mlp {config.llm.intermediate_size})",
            "vocabulary": config.llm.vocab_size,
            "tokens_per_tile": config.tokens_per_tile,
        },
        "samples": len(samples),
        "tokens": tokens,
        "tokens_shortest_median_longest": [of([s.num_tokens for s in samples]) for of in (min, median, max)],
        "tiles_fewest_mean_most": [min(tiles), sum(tiles) / len(tiles), max(tiles)],
        "text_only_share": tiles.count(0) / len(tiles),
        "supervised_share": sum(pack.num_targets for pack in packs) / tokens,
        "micro_batches": len(batches),
        "padding_share": 1 - tokens / sum(len(batch) * max(s.num_tokens for s in batch) for batch in batches),
        "packs": len(packs),
        "pack_caps": list(pack_caps(config, options.pack_tokens)),
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "clock": "wall" if options.wall else "processor",
        "gemm_ceiling_gflops": ceiling / 1e9,
        "loss": losses,
        "flop_ratio_at_full_size": {
            name: workload.stock_flops(preset(name), options.stage, rows)
            / workload.packed_flops(preset(name), options.stage, full)
            for name in REAL
        },
        "paths": {
            name: {
                "tokens_per_s": tokens / median_s[name],
                "seconds": median_s[name],
                "seconds_of_rounds": [sum(items) for items in seconds[name]],
                "gflop": flops[name] / 1e9,
                "speedup": median_s["stock"] / median_s[name],
                "flop_ratio": flops["stock"] / flops[name],
                "share_of_gemm_ceiling": flops[name] / median_s[name] / ceiling,
            }
            for name in seconds
        },
    }


def describe(result: dict[str, Any]) -> str:
    """The figures for people."""
    model, (low, middle, high) = result["model"], result["tokens_shortest_median_longest"]
    few, mean, most = result["tiles_fewest_mean_most"]
    lines = [
        f"stream {result['stream']}, stage {result['stage']}: {result['samples']} samples, {result['tokens']:,} tokens "
        f"({low} to {high}, median {middle:g}), {few} to {most} tiles (mean {mean:.1f}), "
        f"{result['text_only_share']:.0%} text only, {result['supervised_share']:.1%} of the tokens supervised",
        f"model: tower {model['tower']}, language model {model['llm']}, vocabulary {model['vocabulary']}, "
        f"{model['tokens_per_tile']} tokens a tile; float32, {result['threads']} thread(s)",
        f"{result['micro_batches']} micro-batches, {result['padding_share']:.1%} padding; {result['packs']} packs of "
        f"at most {result['pack_caps'][0]} tokens and {result['pack_caps'][1]} tiles; "
        f"of each the median of {result['rounds']} rounds, {result['clock']} time; "
        f"GEMM ceiling {result['gemm_ceiling_gflops']:.0f} GFLOP/s",
        "",
        f"{'path':8s}{'tokens/s':>10s}{'speed-up':>10s}{'FLOP ratio':>12s}{'of ceiling':>12s}",
    ]
    for name, path in result["paths"].items():
        lines.append(
            f"{name:8s}{path['tokens_per_s']:10,.0f}{path['speedup']:9.2f}x{path['flop_ratio']:11.2f}x"
            f"{path['share_of_gemm_ceiling']:12.1%}"
        )
    ratios = [f"{ratio:.2f}x in {name}" for name, ratio in result["flop_ratio_at_full_size"].items()]
    lines += ["", f"FLOP ratio of the same samples at full length, packed against stock: {', '.join(ratios)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
