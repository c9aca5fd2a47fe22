"""A training run, a resume and an answer on the pretend NPU beside the same on CPU; prints what came out as JSON.

Run in a process of its own: python -m tests.npu_contract FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests import pretend_npu


def both_runs(folder: Path) -> dict[str, Any]:
    """Two steps, then two more after a resume, of a recipe whose tower drops paths: random numbers matter."""
    from sailctl.core.train.checkpoint import latest
    from tests.helpers_train import rows, train, write_recipe

    recipe = write_recipe(folder / "recipe")
    everything = "train.trainable=[vision, projector, llm]"
    change = ["model.config.vision.drop_path=0.3", "train.precision=fp32", everything]
    found: dict[str, Any] = {}
    for kind in ("cpu", "npu"):
        out = folder / kind
        result = train(recipe, out, "alignment", *change, device=kind)
        straight = [row["loss"] for row in rows(out)]
        last = latest(out)
        assert last is not None and result.steps == len(straight) == 4
        (out / "latest").write_text("step-00000002")
        train(recipe, out, "alignment", *change, device=kind, resume=True)
        resumed = [row["loss"] for row in rows(out)]
        weights = str(last.path / "weights" / "model.safetensors")
        found[kind] = {"straight": straight, "resumed": resumed, "weights": weights}
    return found


def both_answers() -> dict[str, Any]:
    """Greedy and sampled answers with a picture."""
    from sailctl.core.device import pick
    from tests.helpers_model import tiny_model

    found: dict[str, Any] = {}
    ids = [[257, 84, 259, *[261] * 8, 260, 71, 72, 258], [257, 90, 258]]
    tiles = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for kind in ("cpu", "npu"):
        model = tiny_model(seed=3).to(pick(kind).torch)
        options = {"max_new_tokens": 8, "eos_ids": [256], "seed": 5}
        found[kind] = [
            model.generate(ids, [tiles, None], temperature=temperature, **options) for temperature in (0.0, 1.0)
        ]
    return found


def step_waits() -> dict[str, Any]:
    """How often the host waits for the device inside forward and backward of one pack that is there already."""
    from sailctl.core.data.packing import Encoded, merge
    from sailctl.core.device import pick
    from sailctl.core.train.loss import pack_loss
    from tests.helpers_model import tiny_model

    device = pick("npu")
    samples = []
    for number, length in enumerate((9, 17)):
        ids = torch.arange(length, dtype=torch.int32).numpy() + 1
        ids[1:5] = 261
        pixels = torch.full((1, 3, 56, 56), 40 * number, dtype=torch.uint8).numpy()
        samples.append(Encoded(f"{number:032x}", "", "", ids, ids < 200, pixels))
    pack = merge(samples)
    found: dict[str, Any] = {"losses": {}}
    for kind in ("cpu", "npu"):
        model = tiny_model(seed=2).to(pick(kind).torch)
        moved = pack.to(pick(kind).torch)
        pretend_npu.waits.clear()
        for precision in ("fp32", "bf16"):
            with pick(kind).autocast(pick(kind).dtype(precision)):
                loss = pack_loss(model, moved)
            loss.backward()
            if precision == "fp32":
                found["waits"] = dict(pretend_npu.waits)
            found["losses"][f"{kind} {precision}"] = loss.item()
    found["memory"] = device.memory_allocated()
    found["name"] = device.name()
    return found


def main() -> None:
    """Everything, once."""
    torch.set_num_threads(1)
    pretend_npu.install()
    from sailctl.core import device as devices

    devices._gemm_flops = lambda *_: 1e12  # its products are sized for a true accelerator
    result = {"runs": both_runs(Path(sys.argv[1])), "answers": both_answers(), "step": step_waits()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
