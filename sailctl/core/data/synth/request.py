"""A data set as a user asks for it, in words: parsed, checked, previewed, made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sailctl.core.data.synth.generate import generate
from sailctl.core.data.synth.item import NATIVE_SIZE, TASKS, Language, Split, SynthItem
from sailctl.core.data.synth.layouts import Layout, Part, assignment
from sailctl.core.data.synth.preview import write_contact_sheet
from sailctl.core.data.synth.shards import count_samples, plan_parts, write_shards
from sailctl.core.errors import UsageError
from sailctl.core.schema.data import SynthConfig

PREVIEW_SAMPLES_A_KIND = 2
PREVIEW_SEARCH = 5000  # samples looked through for every task and level


@dataclass(frozen=True, slots=True)
class SynthRequest:
    """`tasks` as "caption,ocr_word=3", `levels` as "1,2"; the rest as in `write_shards`. Parsing raises UsageError."""

    tasks: str
    levels: str
    samples: int
    seed: int = 0
    split: str = "train"
    size: int = NATIVE_SIZE
    font: Path | None = None
    lang: str = "en"
    layout: str = "tar"
    documents: float = 0.5

    def spec(self) -> SynthConfig:
        """The specification as recipes write it."""
        if self.split not in ("train", "heldout"):
            raise UsageError(f"--split {self.split}: use train or heldout")
        return SynthConfig(
            tasks=parse_tasks(self.tasks),
            levels=parse_levels(self.levels),
            samples=self.samples,
            seed=self.seed,
            split=cast(Split, self.split),
            documents=self.documents,
        )

    def run(
        self,
        out: Path | None,
        *,
        preview: Path | None = None,
        workers: int = 1,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """Make the data set in `out` and the contact sheet in `preview`, as given; returns a JSON-able summary.

        Raises UsageError when neither is given or an option is wrong.
        """
        if out is None and preview is None:
            raise UsageError("nothing to write: give a folder with --out, a picture with --preview, or both")
        if preview is not None and preview.suffix.lower() != ".png":
            raise UsageError(f"--preview {preview}: the contact sheet is a PNG; call it {preview.with_suffix('.png')}")
        spec, layout, lang = self.spec(), cast(Layout, self.layout), cast(Language, self.lang)
        parts = plan_parts(spec, out or Path("."), size=self.size, font=self.font, lang=lang, layout=layout)
        summary: dict[str, Any] = {
            "out": None if out is None else str(out),
            "preview": None if preview is None else str(preview),
            "format": layout,
            "samples": spec.samples,
            "parts": len(parts),
            "counts": count_samples(parts),
            "spec": spec.model_dump(),
            "dry_run": dry_run,
        }
        if dry_run:
            return summary
        if out is not None:
            written = write_shards(
                spec,
                out,
                size=self.size,
                font=self.font,
                lang=lang,
                workers=workers,
                layout=layout,
                progress=progress,
            )
            summary |= {"source": str(written.source), "complete_before": written.complete_before}
        if preview is not None:  # last: where --out is refused, nothing is left
            font = None if self.font is None else str(self.font)
            write_contact_sheet(first_items(parts), preview, font=font)
        return summary


def parse_tasks(text: str) -> dict[str, float]:
    """Tasks and weights from "caption,ocr_word=3"; a task without a weight counts 1."""
    tasks: dict[str, float] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, weight = (part.strip() for part in piece.partition("="))
        if name not in TASKS:
            raise UsageError(f"--tasks {text}: unknown task {name!r}; known: {', '.join(TASKS)}")
        if name in tasks:
            raise UsageError(f"--tasks {text}: {name!r} is named twice; name it once with its weight")
        try:
            tasks[name] = float(weight) if equals else 1.0
        except ValueError:
            raise UsageError(f"--tasks {text}: the weight {weight!r} of {name!r} is no number") from None
    return tasks


def parse_levels(text: str) -> list[int]:
    """Levels from "1,2,3"."""
    try:
        return [int(piece) for piece in text.split(",") if piece.strip()]
    except ValueError:
        raise UsageError(f"--levels {text}: levels are whole numbers from 1 to 3, such as 1,2") from None


def first_items(parts: list[Part]) -> list[SynthItem]:
    """The data set's first items of every task and level, in the order of tasks and levels."""
    found: dict[tuple[str, int], list[int]] = {}
    wanted = len(parts[0].tasks) * len(parts[0].levels)
    for ordinal in range(min(parts[-1].stop, PREVIEW_SEARCH)):
        kind = found.setdefault(assignment(parts[0], ordinal), [])
        if len(kind) < PREVIEW_SAMPLES_A_KIND:
            kind.append(ordinal)
        if len(found) == wanted and all(len(kind) == PREVIEW_SAMPLES_A_KIND for kind in found.values()):
            break
    part, items = parts[0], []
    for task, level in sorted(found, key=lambda kind: (TASKS.index(kind[0]), kind[1])):
        for ordinal in found[task, level]:
            options: dict[str, Any] = {"font": part.font, "size": part.size, "lang": part.lang}
            items.append(generate(task, level, part.seed, ordinal, part.split, **options))
    return items
