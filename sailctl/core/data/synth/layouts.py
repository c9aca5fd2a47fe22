"""One part of a data set on disk, in any of the layouts that sources read. A part is there complete or not at all.

Pictures are JPEG, quality 90 without chroma subsampling: thin coloured letters stay sharp, at a sixth of PNG's time and
half its size.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sailctl.core.data.synth.generate import generate
from sailctl.core.data.synth.item import Draw, Language, Split, SynthItem
from sailctl.core.files import atomic_write
from sailctl.core.records import IMAGE_PLACEHOLDER

Layout = Literal["tar", "llava-json", "parquet", "img2dataset"]
LAYOUTS: tuple[Layout, ...] = ("tar", "llava-json", "parquet", "img2dataset")
BARE_CAPTION_TASKS = ("caption",)  # what img2dataset's layout can say: it has no room for a question
JPEG_QUALITY = 90
# Kronecker sequence in two dimensions (inverse powers of 1.3247..., the real root of x^3 = x + 1) times 2^64: tasks
# and levels come in the asked proportions in every stretch of the data, not only on average.
_STEP_TASK, _STEP_LEVEL = 13925035116211876495, 10511698010929265437
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Part:
    """Samples `start`..`stop`-1 of a data set; picklable, so that any process can make it."""

    folder: Path
    number: int
    start: int
    stop: int
    tasks: tuple[tuple[str, float], ...]
    levels: tuple[int, ...]
    seed: int
    split: Split
    size: int
    font: str | None
    lang: Language
    layout: Layout
    documents: float  # share of train items with a description: that first, then the question

    @property
    def path(self) -> Path:
        """The file whose presence says that the part is complete."""
        name = {"llava-json": f".part-{self.number:05d}.jsonl", "parquet": f"{self.number:05d}.parquet"}
        return self.folder / name.get(self.layout, f"{self.number:05d}.tar")


@functools.lru_cache(maxsize=16)
def _origin(seed: int, split: Split) -> tuple[int, int]:
    """Where the sequence of tasks and levels starts."""
    draw = Draw("mixture", seed, split)
    return draw.below(1 << 32) << 32, draw.below(1 << 32) << 32


def assignment(part: Part, ordinal: int) -> tuple[str, int]:
    """Task and level of a sample, from its ordinal and the mixture alone."""
    first, second = _origin(part.seed, part.split)
    at_task = ((first + ordinal * _STEP_TASK) & _MASK) / 2.0**64 * sum(weight for _, weight in part.tasks)
    at_level = ((second + ordinal * _STEP_LEVEL) & _MASK) * len(part.levels) >> 64
    chosen = part.tasks[-1][0]  # rounding may leave a remainder above the last weight
    for task, weight in part.tasks:
        at_task -= weight
        if at_task < 0:
            chosen = task
            break
    return chosen, part.levels[at_level]


def item_to_record(item: SynthItem, key: str, *, document: bool = False) -> dict[str, Any]:
    """The item as a LLaVA conversation, JSON-able; with `document`, the description of the picture comes first.

    The first human turn begins with the image placeholder unless the item has no image.
    """
    pairs = [(item.question, item.answer)]
    if document and item.preface:
        pairs.insert(0, (item.preface[0], item.preface[1]))
    turns = []
    for position, (question, answer) in enumerate(pairs):
        shown = f"{IMAGE_PLACEHOLDER}\n{question}" if position == 0 and item.image is not None else question
        turns += [{"from": "human", "value": shown}, {"from": "gpt", "value": answer}]
    return {
        "id": key,
        "conversations": turns,
        "task": item.task,
        "level": item.level,
        "kind": item.kind,
        "options": list(item.options),
        "references": list(item.references),
        "elements": list(item.elements),
    }


def encode_jpeg(item: SynthItem) -> bytes | None:
    """The item's picture as JPEG bytes; None for an item without one."""
    if item.image is None:
        return None
    buffer = io.BytesIO()
    item.image.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def samples(part: Part) -> Iterator[tuple[str, SynthItem, dict[str, Any], bytes | None]]:
    """Yield key, item, record and JPEG of every sample of a part."""
    for ordinal in range(part.start, part.stop):
        task, level = assignment(part, ordinal)
        item = generate(task, level, part.seed, ordinal, part.split, font=part.font, size=part.size, lang=part.lang)
        document = part.split == "train" and Draw("document", part.seed, ordinal).chance(part.documents)
        key = f"{ordinal:08d}"
        record = item_to_record(item, f"synth-{part.split}-{part.seed}-{key}", document=document)
        yield key, item, record, encode_jpeg(item)


def write_part(part: Part) -> int:
    """Write one part unless it is there; returns the number of its samples. Raises StorageError, UsageError."""
    if not part.path.exists():
        writer = {"llava-json": _write_llava, "parquet": _write_parquet}.get(part.layout, _write_tar)
        writer(part)
    return part.stop - part.start


def _json_bytes(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _write_tar(part: Part) -> None:
    """WebDataset: members of one sample share their stem; times and owners are fixed, for equal bytes."""
    from webdataset.writer import TarWriter

    with atomic_write(part.path) as handle, TarWriter(handle, user="", group="", mtime=0, encoder=False) as tar:
        for key, item, record, jpeg in samples(part):
            members = {"__key__": key, "json": _json_bytes(record)}
            if part.layout == "img2dataset":
                size = {"width": part.size, "height": part.size}
                about = {"key": key, "caption": item.answer, "status": "success", **size}
                members |= {"json": _json_bytes(about), "txt": item.answer.encode()}
            tar.write(members if jpeg is None else members | {"jpg": jpeg})


def _write_llava(part: Part) -> None:
    """Pictures in a folder of their own, then the part's lines, which vouch for them."""
    images = f"images/{part.number:05d}"
    (part.folder / images).mkdir(parents=True, exist_ok=True)
    lines = []
    for key, _, record, jpeg in samples(part):
        if jpeg is not None:
            name = f"{images}/{key}.jpg"
            with atomic_write(part.folder / name) as handle:
                handle.write(jpeg)
            record = {"id": record["id"], "image": name, **record}
        lines.append(_json_bytes(record) + b"\n")
    with atomic_write(part.path) as handle:
        handle.writelines(lines)


def _write_parquet(part: Part) -> None:
    """Columns `id`, `image` (struct of bytes and path, null without a picture), `conversations` and the annotations."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    schema = pyarrow.schema(
        {
            "id": text,
            "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": text}),
            "conversations": pyarrow.list_(pyarrow.struct({"from": text, "value": text})),
            "task": text,
            "level": pyarrow.int32(),
            "kind": text,
            "options": pyarrow.list_(text),
            "references": pyarrow.list_(text),
            "elements": pyarrow.list_(text),
        }
    )
    rows = [
        {**record, "image": None if jpeg is None else {"bytes": jpeg, "path": f"{key}.jpg"}}
        for key, _, record, jpeg in samples(part)
    ]
    with atomic_write(part.path) as handle:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), handle)
