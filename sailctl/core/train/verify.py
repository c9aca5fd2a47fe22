"""Proof on a user's own recipe and data that packing, attention, loss and resume do what they promise.

A few steps' worth of packs are drawn as training draws them, and held against the raw samples (`proofs.py`); then a
short run is made straight through and once more from its middle, in a temporary folder. Nothing else is written.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.device import Device, pick
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.files import read_jsonl
from sailctl.core.model.shards import MANIFEST
from sailctl.core.reporter import Quiet, Reporter
from sailctl.core.schema.load import load_recipe, recipe_stages
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import checkpoint as checkpoints
from sailctl.core.train import parents, proofs
from sailctl.core.train.inputs import build_loader, build_model, make_missing_data, point_at_samples
from sailctl.core.train.proofs import Proof
from sailctl.core.train.run import train_stage
from sailctl.core.train.world import World

if TYPE_CHECKING:
    from sailctl.core.data.loader import Loader
    from sailctl.core.data.packing import Pack

STEPS = 4  # of the run that is resumed; its checkpoint stands in the middle


def verify(
    name: str | None,
    stage: str,
    overrides: list[str],
    data: list[str],
    *,
    checkpoint: str | None,
    samples: int,
    device: str,
    reporter: Reporter,
) -> dict[str, Any]:
    """Check a recipe's stage on at least `samples` samples of its own data: every check, what it measured, the verdict.

    The weights are `checkpoint`'s, else those of the run the stage starts from, else the ones the recipe begins with.
    Raises what training raises where data, weights or recipe do not allow a run.
    """
    recipe, recipe_dir = load_recipe(name, stage, overrides, data)
    place = pick(device)
    with tempfile.TemporaryDirectory(prefix="sailctl-verify-") as temporary:
        recipe, parent = _shortened(recipe, recipe_dir, overrides, checkpoint, samples, Path(temporary))
        make_missing_data(recipe, reporter)
        reporter.start(f"{recipe.name} {stage}: packs against single samples", 2, unit="parts")
        try:
            drawn, rows = _packs(recipe, recipe_dir, place, parent, samples)
            reporter.update(1)
            rows.append(_resumed(recipe, recipe_dir, place, device, parent, Path(temporary) / "run"))
            reporter.update(2)
        finally:
            reporter.finish()
    return {
        "recipe": recipe.name,
        "stage": stage,
        "weights": "the recipe's first ones" if parent is None else str(parent.path),
        "device": place.name(),
        "precision": str(place.dtype(recipe.train.precision)).removeprefix("torch."),
        **drawn,
        "checks": [row.as_json() for row in rows],
        "ok": all(row.ok for row in rows),
    }


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the checks for people."""
    rows = [
        [
            row["check"],
            "none" if row["measured"] is None else f"{row['measured']:.3g}",
            f"{row['tolerance']:.3g}",
            "ok" if row["ok"] else "FAILED",
            row["detail"],
        ]
        for row in found["checks"]
    ]
    return ["check", "measured", "tolerance", "verdict", "what was looked at"], rows


def _shortened(
    recipe: Recipe, recipe_dir: Path, overrides: list[str], checkpoint: str | None, samples: int, temporary: Path
) -> tuple[Recipe, parents.Parent | None]:
    """The recipe with a few small steps, data that are there, and what it starts from."""
    raw = recipe.model_dump(mode="json")
    batch = max(recipe.data.lanes, min(recipe.train.global_batch_samples, math.ceil(samples / STEPS)))
    raw["train"] |= {"global_batch_samples": batch, "max_steps": STEPS, "max_samples": None}
    raw["train"] |= {"save_every": STEPS // 2, "keep_checkpoints": 2}
    point_at_samples(raw, recipe, temporary, samples)
    parent = None
    if checkpoint is not None:
        parent = parents.open_parent(Path(checkpoint))
    elif recipe.parent is not None:
        run_dir = parents.sibling(recipe, parents.default_out(recipe), recipe.parent)
        parent = parents.open_parent(run_dir) if parents.usable(run_dir) else None
    if parent is None:
        if recipe.stage == "anneal":
            raise UsageError("anneal branches off a run; give --checkpoint RUN, or verify the trunk's own stage")
        raw["parent"] = None
        if recipe.parent is not None and not (recipe.model.tokenizer or recipe.model.llm_weights):
            # a later stage need not say what a model is built from; the recipe's first one does
            first, shapes = recipe_stages(str(recipe_dir))[0], [one for one in overrides if one.startswith("model.")]
            raw["model"] = load_recipe(str(recipe_dir), first, shapes)[0].model.model_dump(mode="json")
    short = Recipe.model_validate(raw)
    return (parents.follow_trunk(short, parent) if short.stage == "anneal" else short), parent


def _packs(
    recipe: Recipe, recipe_dir: Path, place: Device, parent: parents.Parent | None, samples: int
) -> tuple[dict[str, Any], list[Proof]]:
    """Draw packs and hold them against the raw samples; how much was looked at, and the verdicts."""
    place.seed(recipe.train.seed)
    loaded = build_model(recipe, recipe_dir, place, None, parent)
    loaded.model.freeze(list(recipe.train.trainable))
    loaded.model.eval()  # dropped paths would differ from pass to pass
    with build_loader(recipe, loaded, World(place)) as loader:
        packs: list[Pack] = []
        while sum(pack.num_samples for pack in packs) < samples:
            packs += next(loader).packs
        documents = proofs.documents(packs, _raw(loader))
        weighting = recipe.train.loss_weighting
        tolerances = proofs.tolerances(place.dtype(recipe.train.precision), recipe_is_sparse=_sparse(loaded.config))
        checked = proofs.Checked(loaded.model, loaded.tokenizer, place, place.dtype(recipe.train.precision), weighting)
        rows = [
            proofs.supervised_tokens(checked, documents, packs),
            proofs.layout(checked, documents, packs),
            *proofs.parity(checked, packs, documents, tolerances),
            proofs.leakage(checked, packs, documents, tolerances),
        ]
    drawn = {"samples": len(documents), "packs": len(packs), "tokens": sum(pack.num_tokens for pack in packs)}
    return drawn, rows


def _sparse(config: Any) -> bool:
    return config.llm.num_experts > 0


def _raw(loader: Loader) -> dict[str, list[proofs.Raw]]:
    """Everything the lanes have drawn so far, read and encoded once more, by sample id."""
    found: dict[str, list[proofs.Raw]] = defaultdict(list)
    for lane in loader.lanes:
        for position in range(lane.position):
            ref = loader.order.ref(lane.lane, position)
            try:
                sample = loader.sources[ref.source].read(ref.ordinal)
                found[sample.id].append(proofs.Raw(sample, loader.encoder.encode(sample, ref.epoch)))
            except SampleError:
                continue  # counted as a reject, and in no pack
    return found


def _resumed(
    recipe: Recipe, recipe_dir: Path, place: Device, device: str, parent: parents.Parent | None, out: Path
) -> Proof:
    """A run made straight through, and again from the checkpoint in its middle: do files and losses agree?"""
    options: dict[str, Any] = {"recipe_dir": recipe_dir, "out": out, "device": device, "reporter": Quiet()}
    train_stage(recipe, checkpoint=None if parent is None else str(parent.path), **options)
    straight, losses = _hashes(out), _losses(out)
    last = checkpoints.latest(out)
    assert last is not None  # the run has ended
    middle = checkpoints.complete(out)[0]
    shutil.rmtree(last.path)
    (out / "latest").write_text(middle, encoding="utf-8")
    train_stage(recipe, resume=True, **options)
    again, losses_again = _hashes(out), _losses(out)
    told = f"{STEPS} steps straight, and {STEPS // 2} + resume + {STEPS - STEPS // 2}"
    if place.kind == "cpu":
        differing = [name for name in straight if straight[name] != again.get(name)]
        differing += [f"losses {a} and {b}" for a, b in zip(losses, losses_again, strict=True) if a != b][:1]
        detail = f"{told}: {', '.join(differing[:3])} differ" if differing else f"{told}: equal bit for bit"
        return Proof("resume equality (files that differ)", len(differing), 0, detail)
    # accelerators add up in no fixed order, so that not even two straight runs are equal bit for bit
    worst = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(losses, losses_again, strict=True))
    return Proof("resume equality (relative loss)", worst, proofs.ACCELERATOR_RESUME, told)


def _hashes(out: Path) -> dict[str, str]:
    """Hashes of the newest checkpoint's weights and optimiser state."""
    newest = checkpoints.latest(out)
    assert newest is not None
    files = json.loads((newest.path / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def _losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl")]
