"""MFU, samples/s and peak memory of whole training steps on one accelerator, packed against padded, stage by stage.

python benchmarks/gpu.py                                     # sail-vl-2b's shapes, random weights, a mix of lengths
python benchmarks/gpu.py --lengths sample_lengths.csv --compile
python benchmarks/gpu.py --tiny --device cpu                 # does it run at all?

A step is forward, loss, backward, clipping and AdamW of the plain backend over one pack, or over padded micro-batches
of the same samples. MFU counts what the model needs (no recomputation, no padding, causal attention half) against the
device's data sheet; the GEMM ceiling is measured. Each stage runs in a process of its own, so that its peak memory is
its own; the prediction is `sailctl plan`'s, for the fullest pack.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import workload

from sailctl.core.data.packing import Encoded, Pack
from sailctl.core.device import Device, pick
from sailctl.core.model.presets import preset
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.backend import Plain
from sailctl.core.train.memory import estimate_memory


def main() -> None:
    """Measure every stage in a process of its own, or the one that was asked for in this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stages", default="alignment,advance,sft")
    parser.add_argument("--preset", default="sail-vl-2b")
    parser.add_argument("--lengths", type=Path, help="CSV with columns tokens and tiles; without it a mix")
    parser.add_argument("--packs", type=int, default=8, help="packs of the stream that are timed, one a step")
    parser.add_argument("--pack-tokens", type=int, default=16384)
    parser.add_argument("--pack-tiles", type=int, default=48)
    parser.add_argument("--micro-batch", type=int, default=8, help="rows of a padded micro-batch")
    parser.add_argument("--compile", action="store_true", help="train.compile: true")
    parser.add_argument("--checkpointing", choices=["auto", "on", "off"], default="auto", help="auto: if it must be")
    parser.add_argument("--no-padded", action="store_true", help="leave out the padded path")
    parser.add_argument("--tiny", action="store_true", help="small shapes and a few samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object a stage instead of text")
    options = parser.parse_args()
    stages = options.stages.split(",")
    if len(stages) == 1:
        result = measure(options, stages[0])
        print(json.dumps(result) if options.json else describe(result), flush=True)
        return
    failed = [stage for stage in stages if subprocess.run([sys.executable, *sys.argv, "--stages", stage]).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measure(options: argparse.Namespace, stage: str) -> dict[str, Any]:
    """One stage: packed steps, then padded ones, on the same model and samples."""
    device = pick(options.device)
    config = workload.LAPTOP if options.tiny else preset(options.preset)
    if options.tiny:
        options.packs, options.pack_tokens, options.pack_tiles = 2, 1024, 24
    samples, packs = stream(options, stage, config)
    tokens, tiles = fullest(packs)
    targets = max(pack.num_targets for pack in packs)
    train = TrainConfig(trainable=workload.STAGES[stage], compile=options.compile)  # type: ignore[arg-type]
    if options.checkpointing == "auto":
        needed = estimate_memory(config, train, ranks=1, tokens=tokens, tiles=tiles, targets=targets).total
        on = needed > 0.9 * device.total_memory()
    else:
        on = options.checkpointing == "on"
    train = train.model_copy(update={"gradient_checkpointing": on})
    predicted = estimate_memory(config, train, ranks=1, tokens=tokens, tiles=tiles, targets=targets)

    dtype = device.dtype(train.precision)
    ceiling = device.gemm_flops(dtype)
    device.seed(options.seed)
    model = VisionLanguageModel(config, image_token_id=config.llm.vocab_size - 1).to(device.torch).train()
    if "vision" not in train.trainable:
        model.vision.eval()
    backend = Plain(model, train, device)
    result: dict[str, Any] = {
        "stage": stage,
        "model": config.name,
        "device": device.name(),
        "dtype": str(dtype).removeprefix("torch."),
        "compile": train.compile,
        "gradient_checkpointing": train.gradient_checkpointing,
        "samples": len(samples),
        "packs": len(packs),
        "pack_tokens": options.pack_tokens,
        "vocabulary": config.llm.vocab_size,
        "supervised_share": sum(pack.num_targets for pack in packs) / sum(pack.num_tokens for pack in packs),
        "peak_tflops": (device.peak_flops(dtype) or 0.0) / 1e12 or None,
        "gemm_ceiling_tflops": ceiling / 1e12,
        "memory_predicted": predicted.to_dict(),
    }

    def packed(pack: Pack) -> None:
        backend.backward(pack, pack.loss_weight)
        backend.step(1e-6)

    work = workload.packed_flops(config, stage, samples)
    result["packed"] = timed(device, packed, packs, len(samples), work, ceiling, dtype)
    result["packed"]["memory_peak"] = device.max_memory_allocated()
    if not options.no_padded:
        batches = [
            workload.pad(samples[at : at + options.micro_batch]) for at in range(0, len(samples), options.micro_batch)
        ]

        def padded(batch: workload.PaddedBatch) -> None:
            with device.autocast(dtype):
                loss = workload.padded_loss(model, batch.to(device.torch))
            (loss / batch.num_targets).backward()
            backend.step(1e-6)

        try:
            result["padded"] = timed(device, padded, batches, len(samples), work, ceiling, dtype)
            result["speedup"] = result["padded"]["seconds"] / result["packed"]["seconds"]
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            result["padded"] = None  # padding alone is more than fits
    return result


def stream(options: argparse.Namespace, stage: str, config: Any) -> tuple[list[Encoded], list[Pack]]:
    """Samples that fill about `--packs` packs, and the packs."""
    count = options.packs * 12
    full = (
        workload.listed_sizes(options.lengths, count, options.seed)
        if options.lengths
        else workload.mixed_sizes(count, options.seed)
    )
    sizes = [workload.scaled(size, config.tokens_per_tile) for size in full]
    image_token_id = config.llm.vocab_size - 1
    samples = [workload.sample_of(size, config, image_token_id, options.seed) for size in sizes]
    packs = workload.pack_all(sizes, samples, config, stage, tokens=options.pack_tokens, tiles=options.pack_tiles)
    kept = packs[: options.packs]
    names = {name for pack in kept for name in pack.sample_ids}
    return [sample for sample in samples if sample.id in names], kept


def fullest(packs: Sequence[Pack]) -> tuple[int, int]:
    """The most tokens and the most tiles of any pack."""
    return max(pack.num_tokens for pack in packs), max(len(pack.tiles_IPHW) for pack in packs)


def timed(
    device: Device,
    step: Callable[[Any], None],
    items: Sequence[Any],
    samples: int,
    work: float,
    ceiling: float,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Three passes over the items, the first of which warms up (and compiles); the mean of the other two counts."""
    passes = []
    for _ in range(3):
        device.synchronize()
        start = time.perf_counter()
        for item in items:
            step(item)
        device.synchronize()
        passes.append(time.perf_counter() - start)
    seconds, peak = median(passes[1:]), device.peak_flops(dtype)
    return {
        "seconds": seconds,
        "warm_up_s": passes[0],
        "samples_per_s": samples / seconds,
        "mfu": work / seconds / peak if peak else None,
        "share_of_gemm_ceiling": work / seconds / ceiling,
    }


def describe(result: dict[str, Any]) -> str:
    """The figures of a stage for people."""
    packed, padded = result["packed"], result.get("padded")
    gib, predicted = 1 << 30, result["memory_predicted"]["total"]
    lines = [
        f"{result['stage']}: {result['model']} in {result['dtype']} on {result['device']}, {result['samples']} samples "
        f"in {result['packs']} packs of at most {result['pack_tokens']:,} tokens, vocabulary {result['vocabulary']:,}, "
        f"{result['supervised_share']:.1%} supervised"
        + (", gradient checkpointing" if result["gradient_checkpointing"] else "")
        + (", compiled" if result["compile"] else ""),
        *(
            f"  {name:7s}{path['samples_per_s']:9.2f} samples/s  MFU "
            + ("unknown" if path["mfu"] is None else f"{path['mfu']:.1%}")
            + f"  {path['share_of_gemm_ceiling']:.1%} of the GEMM ceiling"
            for name, path in (("packed", packed), ("padded", padded))
            if path
        ),
        f"  memory {packed['memory_peak'] / gib:.1f} GiB at the peak, {predicted / gib:.1f} GiB predicted",
    ]
    if padded:
        lines.append(f"  packed over padded {result['speedup']:.2f}x")
    elif "padded" in result:
        lines.append("  padded: out of memory")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
