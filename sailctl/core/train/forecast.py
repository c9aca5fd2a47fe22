"""`sailctl plan` as a value: options in, figures of every stage and their totals out, packs to a file if asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sailctl.core.data.lengths import MEASURED, Lengths, check_caps, measure_lengths, read_lengths
from sailctl.core.data.simulate import Chosen
from sailctl.core.datasheet import DATA_SHEETS, DataSheet
from sailctl.core.errors import UsageError
from sailctl.core.files import atomic_write
from sailctl.core.model.presets import model_config
from sailctl.core.reporter import Quiet, counted
from sailctl.core.schema.load import load_recipe, recipe_stages
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.estimate import Machine, choose_packs, estimate_stage

PRETRAINING, SFT = ("alignment", "advance"), ("knowledge", "instruction", "preference")
ROOM = 0.9  # of a device's memory: what the model of it leaves out needs the rest
MFU = 0.45  # of a well-fed GPU of the H100 family; measure your own
DEVICE = "H200"


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """The options of `sailctl plan`, as given; `stage` None means every stage the recipe has."""

    recipe: str | None = None
    stage: str | None = None
    overrides: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    lengths: Path | None = None
    tokens: int | None = None
    tiles: int | None = None
    ranks: int | None = None
    balance: str | None = None
    packs: Path | None = None
    mfu: float | None = None
    device_type: str | None = None

    def run(self) -> dict[str, Any]:
        """The plan as one JSON-able object. Raises UsageError naming option, file, row and value."""
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(f"--ranks {self.ranks}: should be 1 or more")
        if self.balance not in (None, "sum", "module"):
            raise UsageError(f"--balance {self.balance}: should be sum or module")
        stages = self._stages()
        recipes = {stage: self._load(stage) for stage in stages}
        sheet, mfu = self._sheet(), MFU if self.mfu is None else self.mfu
        if not 0 < mfu <= 1:
            raise UsageError(f"--mfu {mfu:g}: should be above 0 and at most 1, such as {MFU}")
        if self.lengths is not None and self.data:
            raise UsageError("--lengths and --data both say what to count; give one of them")
        if self.packs is not None and self.packs.is_dir():
            raise UsageError(f"--packs {self.packs}: is a folder; name a file")
        if self.packs is not None and (self.lengths is None or self.stage is None):
            raise UsageError("--packs numbers the rows of one stage's lengths; give --lengths CSV and --stage with it")
        lengths = self._lengths(recipes[stages[0]])
        figures: list[dict[str, Any]] = []
        chosen: dict[str, list[Chosen]] = {}
        for recipe in recipes.values():
            data, ranks = recipe.data, self.ranks or recipe.data.lanes
            check_caps(lengths, data.pack_tokens, data.pack_tiles)
            key = self._same_packs(recipe)
            if key not in chosen:
                chosen[key] = choose_packs(recipe, lengths, ranks, whole=self.ranks is not None)
            machine = Machine(sheet, mfu, ranks)
            figures.append({"ranks": ranks, **estimate_stage(recipe, lengths, chosen[key], machine)})
        if self.packs is not None:
            made = next(iter(chosen.values()))
            with atomic_write(self.packs, "w") as file:
                for pack in made:
                    line = {"step": pack.step, "rank": pack.lane, "rows": pack.rows, "flush": pack.flush}
                    file.write(json.dumps(line) + "\n")
        first = recipes[stages[0]]
        return {
            "recipe": first.name,
            "model": model_config(first.model).name,
            "lengths": _describe_lengths(lengths),
            "caps": {"tokens": first.data.pack_tokens, "tiles": first.data.pack_tiles},
            "device": {"type": sheet.name, "peak_flops": sheet.peak_bf16, "memory_bytes": sheet.memory_bytes},
            "mfu": mfu,
            "asked": self.stage,
            "steps_of": "ranks" if self.ranks is not None else "recipe",
            "assumed": [
                name for name, given in (("mfu", self.mfu), ("device_type", self.device_type)) if given is None
            ],
            "stages": figures,
            "device_hours": _totals(figures),
            "packs": None if self.packs is None else str(self.packs),
        }

    def _stages(self) -> list[str]:
        present = [stage for stage in recipe_stages(self.recipe) if stage in (*PRETRAINING, *SFT)]
        if self.stage is None:
            if not present:
                raise UsageError("the recipe has no stage to plan; give a recipe of a training stage")
            return present
        if self.stage == "sft":
            return [next((stage for stage in present if stage in SFT), SFT[0])]
        if self.stage not in (*PRETRAINING, *SFT):
            raise UsageError(
                f"--stage {self.stage}: should be {', '.join((*PRETRAINING, *SFT))} or sft (any of the last three)"
            )
        return [self.stage]

    def _load(self, stage: str) -> Recipe:
        overrides = list(self.overrides)
        for key, value in (("pack_tokens", self.tokens), ("pack_tiles", self.tiles), ("balance", self.balance)):
            overrides += [] if value is None else [f"data.{key}={value}"]
        return load_recipe(self.recipe, stage, overrides, self.data)[0]

    def _same_packs(self, recipe: Recipe) -> str:
        """Equal for stages that make the same packs: those of one freeze map, batch and set of limits."""
        data, train = recipe.data, recipe.train
        limits = (data.pack_tokens, data.pack_tiles, data.pack_window, data.balance, data.lanes)
        return repr((limits, train.trainable, train.gradient_checkpointing, train.global_batch_samples))

    def _sheet(self) -> DataSheet:
        name = self.device_type or DEVICE
        sheet = next((sheet for sheet in DATA_SHEETS if sheet.name.lower() == name.lower()), None)
        if sheet is None:
            known = ", ".join(sheet.name for sheet in DATA_SHEETS)
            raise UsageError(f"--device-type {name}: no data sheet; known: {known}")
        return sheet

    def _lengths(self, recipe: Recipe) -> Lengths:
        config = model_config(recipe.model)
        if self.lengths is not None:
            return read_lengths(self.lengths, config.tokens_per_tile)
        from sailctl.core.data.encode import Encoder
        from sailctl.core.model.tokenizer import add_markers, load_tokenizer
        from sailctl.core.train.inputs import point_at_samples

        if not recipe.data.sources:
            raise UsageError("no lengths: give --lengths CSV or --data PATH, or list sources in the recipe")
        with TemporaryDirectory(prefix="sailctl-plan-") as temporary:
            raw = recipe.model_dump(mode="json")
            point_at_samples(raw, recipe, Path(temporary), MEASURED)
            small = Recipe.model_validate(raw)
            made = small.data != recipe.data
            _there_or_made(small)
            tokenizer = load_tokenizer(self._tokenizer(recipe))
            add_markers(tokenizer)
            found = measure_lengths(small.data, Encoder(tokenizer, config, small.data), recipe.train.seed)
            return replace(found, where="the kind the recipe makes") if made else found

    def _tokenizer(self, recipe: Recipe) -> str:
        """The folder of the recipe's tokenizer, which only the stage that starts from parts has to name."""
        first = load_recipe(self.recipe, recipe_stages(self.recipe)[0], self.overrides)[0]
        for section in (recipe.model, first.model):
            if folder := section.tokenizer or section.llm_weights:
                return folder
        raise UsageError("to measure data a tokenizer is needed: give --set model.tokenizer=FOLDER, or --lengths CSV")


def _there_or_made(recipe: Recipe) -> None:
    from sailctl.core.train.inputs import make_missing_data

    try:
        make_missing_data(recipe, Quiet())
    except UsageError as error:
        raise UsageError(f"{error}; lengths alone will do, too: --lengths CSV") from None


def _describe_lengths(lengths: Lengths) -> dict[str, Any]:
    rows = lengths.rows
    return {
        "from": lengths.where,
        "samples": len(rows),
        "rejected": lengths.rejected,
        "short": lengths.short,
        "tokens_mean": sum(row.num_tokens for row in rows) / len(rows),
        "tiles_mean": sum(row.num_tiles for row in rows) / len(rows),
        "targets_mean": sum(row.num_targets for row in rows) / len(rows),
        "targets_estimated": lengths.targets_estimated,
    }


def _totals(figures: list[dict[str, Any]]) -> dict[str, float | None]:
    """Device-hours of pretraining, of SFT and of all five stages; null where a stage of it is not planned."""
    hours = {figure["stage"]: figure["device_hours"] for figure in figures}

    def total(stages: tuple[str, ...]) -> float | None:
        return sum(hours[stage] for stage in stages) if hours.keys() >= set(stages) else None

    return {"pretraining": total(PRETRAINING), "sft": total(SFT), "all": total((*PRETRAINING, *SFT))}


def describe_plan(plan: dict[str, Any]) -> str:
    """The plan as text for people: what is assumed, a column for each stage, the totals."""
    lengths, device = plan["lengths"], plan["device"]
    guess = " (a guess: half of what is no picture)" if lengths["targets_estimated"] else ""
    rejected = f", {lengths['rejected']:,} broken ones left out" if lengths["rejected"] else ""
    assumed = " (assumed; set --mfu and --device-type)" if plan["assumed"] else ""
    figures = plan["stages"]
    lines = [
        f"recipe:   {plan['recipe']}, model {plan['model']}",
        f"lengths:  {lengths['samples']:,} samples of {lengths['from']}{rejected}; on average "
        f"{lengths['tokens_mean']:,.0f} tokens, {lengths['tiles_mean']:.1f} tiles, "
        f"{lengths['targets_mean']:,.0f} supervised{guess}",
        f"packs:    at most {plan['caps']['tokens']:,} tokens and {plan['caps']['tiles']} tiles",
        f"device:   {device['type']}, {device['peak_flops'] / 1e12:,.0f} TFLOP/s, at {plan['mfu']:.1%} MFU{assumed}",
        "",
    ]
    if plan["steps_of"] == "ranks":
        lines.insert(-1, "steps:    one full pack on each rank, whatever the recipe's batch is")
    else:
        lines.insert(
            -1, "steps:    the recipe's batch on its lanes, a rank each; for other ranks with full packs: --ranks R"
        )
    if lengths["short"]:
        lines.insert(
            2,
            f"          {lengths['short']:,} of them have fewer tokens than their tiles: are visual ones left out?",
        )
    table = [("", [_heading(plan, figure) for figure in figures])]
    table += [(label, [show(figure) for figure in figures]) for label, show in _ROWS]
    widths = [max(len(cells[column]) for _, cells in table) for column in range(len(figures))]
    label_width = max(len(label) for label, _ in table)
    for label, cells in table:
        row = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{label.ljust(label_width)}  {row}".rstrip())
    lines.append("")
    for name, words in (("pretraining", "pretraining"), ("sft", "SFT"), ("all", "all five stages")):
        if plan["device_hours"][name] is not None:
            lines.append(f"{words}: {_number(plan['device_hours'][name])} {device['type']}-hours")
    for figure in figures:
        few = f"{figure['stage']}: {counted(lengths['samples'], 'sample')} for {counted(figure['ranks'], 'rank')}: "
        if not figure["full_steps"]:
            lines.append(
                f"{few}not one full step: balance is not known, samples/s and hours take it to be perfect, and fill "
                "and memory are of packs that more samples would fill further"
            )
        elif 2 * figure["flush"] > figure["packs"]:
            lines.append(
                f"{few}only {counted(figure['full_steps'], 'full step')}, for most packs were closed because the list "
                "ended; give more samples, or shuffle rows that alternate (row i goes to rank i mod R)"
            )
    spare = [
        figure
        for figure in figures
        if figure["recompute"] > 0.005 and figure["memory"]["without_recompute"] < ROOM * device["memory_bytes"]
    ]
    if spare:
        least, most = (of(1 - 1 / (1 + figure["recompute"]) for figure in spare) for of in (min, max))
        share = f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"
        needed = max(figure["memory"]["without_recompute"] for figure in spare) / 2**30
        lines.append(
            f"{', '.join(figure['stage'] for figure in spare)}: such a device has room to recompute nothing "
            f"({share} less to compute, {needed:,.1f} GiB in all): --set train.gradient_checkpointing=false"
        )
    if plan["packs"]:
        lines.append(f"packs written to {plan['packs']}")
    return "\n".join(lines)


def _heading(plan: dict[str, Any], figure: dict[str, Any]) -> str:
    return f"sft ({figure['stage']})" if plan["asked"] == "sft" else str(figure["stage"])


def _gib(figure: dict[str, Any], name: str) -> str:
    size = figure["memory"][name]
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _number(value: float) -> str:
    """Three digits that count, and no fewer."""
    if value < 0.0005:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


_ROWS = (
    ("trained", lambda f: "all" if len(f["trainable"]) == 3 else "+".join(f["trainable"])),
    ("ranks", lambda f: f"{f['ranks']:,}"),
    ("packs", lambda f: f"{f['packs']:,}"),
    ("  closed by the end", lambda f: f"{f['flush']:,}"),
    ("fill (of the tighter cap)", lambda f: f"{f['fill']:.1%}"),
    ("longest wait, packs", lambda f: f"{f['longest_wait']:,}"),
    ("balanced by", lambda f: f["balance"]),
    ("balance, met once a step", lambda f: _share(f["efficiency"]["sum"])),
    ("balance, met in every layer", lambda f: _share(f["efficiency"]["module"])),
    ("samples a step", lambda f: "-" if f["samples_per_step"] is None else f"{f['samples_per_step']:,.0f}"),
    ("  of the recipe", lambda f: f"{f['global_batch_samples']:,}"),
    ("TFLOP a sample", lambda f: _number(f["flops_per_sample"] / 1e12)),
    ("  recomputed on top", lambda f: f"{f['recompute']:.0%}"),
    ("memory: weights", lambda f: _gib(f, "weights")),
    ("  gradients", lambda f: _gib(f, "gradients")),
    ("  optimiser", lambda f: _gib(f, "optimizer")),
    ("  activations", lambda f: _gib(f, "activations")),
    ("  in all", lambda f: _gib(f, "total") + ("" if f["memory"]["fits"] else " (too much)")),
    ("  of the device's", lambda f: f"{f['memory']['device'] / 2**30:,.1f} GiB"),
    ("samples/s a device", lambda f: _number(f["samples_per_s_per_device"])),
    ("samples/s", lambda f: _number(f["samples_per_s"])),
    ("samples", lambda f: f"{f['samples']:,}"),
    ("device-hours", lambda f: _number(f["device_hours"])),
)
