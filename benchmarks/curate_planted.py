"""Planted defects in synthetic samples, and how many of them `sailctl curate` finds: recall and precision by kind.

    python benchmarks/curate_planted.py --samples 20000 --work runs/planted

2% exact copies, 2% copies whose picture was resized or encoded anew, 1% copies with up to 15% of their words edited, 1%
blank pictures, 1% texts in another language, and 50 pictures of a benchmark hidden as crops of 95%, encoded anew. The
samples are the generator's, of all its tasks with pictures. Among so many simple pictures some are equal by nature;
what is dropped counts as right where the two were planted as copies, or are equal in every pixel and word.
"""

from __future__ import annotations

import argparse
import base64
import csv
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sailctl.core.data.synth import generate, item_to_record
from sailctl.core.data.verdicts import read_rows

TASKS = ("caption", "closed_vqa", "open_vqa", "chart", "document_vqa", "math", "ocr_text", "region", "text_qa")
SHARES = {"exact": 0.02, "near": 0.02, "text": 0.01, "blank": 0.01, "language": 0.01}
HIDDEN, ROWS = 50, 400  # benchmark pictures hidden in the data, and rows of the benchmark
FOREIGN = (
    "图片中央有一个红色的大圆形",
    "左上角是一颗蓝色的星星",
    "右下角有绿色的正方形",
    "画面上写着几个字",
    "背景是灰的",
)
EDITS = ("quickly", "tiny", "beside", "yellowish", "perhaps", "wooden", "bright", "seven", "holding", "outside")


@dataclass
class Item:
    """A sample to be written: encoded picture or none, LLaVA turns, what was planted, and what it is a copy of."""

    picture: bytes | None
    turns: list[dict[str, str]]
    planted: str = ""
    of: int = -1
    number: int = -1
    hides: int = -1
    words: int = field(default=0)


def encoded(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    """Bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if kind == "PNG" else {"quality": quality}))
    return buffer.getvalue()


def changed(data: bytes, draw: random.Random) -> bytes:
    """A picture resized (half to twice its size), or encoded anew, or both."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    how = draw.choice(("resize", "encode", "both"))
    if how != "encode":
        scale = draw.choice((0.5, 0.6, 0.75, 0.9, 1.25, 1.5, 2.0))
        kind = draw.choice((Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))
        image = image.resize((round(image.width * scale), round(image.height * scale)), kind)
    if how == "resize":
        return encoded(image, "PNG")
    return encoded(image, draw.choice(("JPEG", "JPEG", "WEBP")), draw.choice((50, 60, 70, 80, 90)))


def edited(turns: list[dict[str, str]], draw: random.Random) -> list[dict[str, str]]:
    """Turns with at least one and up to 15% of all words replaced, left out or put in."""
    words = [(number, word) for number, turn in enumerate(turns) for word in turn["value"].split(" ")]
    free = [place for place, (_, word) in enumerate(words) if "<image>" not in word and any(map(str.isalnum, word))]
    count = draw.randint(1, max(1, int(0.15 * len(free))))
    for place in sorted(draw.sample(free, count), reverse=True):
        turn, word = words[place]
        how = draw.choice(("replace", "replace", "delete", "insert"))
        if how == "delete" and sum(one == turn for one, _ in words) < 3:
            how = "replace"
        new = {"replace": [draw.choice(EDITS)], "delete": [], "insert": [word, draw.choice(EDITS)]}[how]
        words[place : place + 1] = [(turn, one) for one in new]
    return [{**turn, "value": " ".join(w for n, w in words if n == number)} for number, turn in enumerate(turns)]


def num_words(turns: list[dict[str, str]]) -> int:
    """Words that may be edited."""
    return sum(any(map(str.isalnum, word)) for turn in turns for word in turn["value"].replace("<image>", "").split())


def crop(data: bytes, draw: random.Random) -> bytes:
    """95% of a picture's width and height from anywhere in it, encoded anew."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = round(0.95 * image.width), round(0.95 * image.height)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return encoded(image.crop((left, top, left + width, top + height)), "JPEG", draw.choice((70, 80, 90)))


def base_item(number: int, seed: int, split: str = "train", size: int = 112, tasks: tuple[str, ...] = TASKS) -> Item:
    """A sample as the generator makes it."""
    made = generate(tasks[number % len(tasks)], 1 + number % 3, seed, number, split, size=size)  # type: ignore[arg-type]
    turns = item_to_record(made, "", document=number % 2 == 0)["conversations"]
    return Item(None if made.image is None else encoded(made.image, "JPEG", 95), turns, words=num_words(turns))


def plant(samples: int, seed: int, folder: Path) -> list[Item]:
    """All samples in the order in which they are written, defects among them; writes the benchmark's table, too."""
    draw = random.Random(seed)
    counts = {name: round(share * samples) for name, share in SHARES.items()}
    fresh = samples - sum(counts[name] for name in ("exact", "near", "text")) - HIDDEN
    items = [base_item(number, seed) for number in range(fresh)]
    for number, item in enumerate(items):
        item.number = item.of = number
    shown = [item for item in items if item.picture is not None]
    draw.shuffle(shown)
    blank, shown = shown[: counts["blank"]], shown[counts["blank"] :]
    foreign, shown = shown[: counts["language"]], shown[counts["language"] :]
    for item in blank:
        colour = tuple(draw.randrange(256) for _ in range(3))
        item.picture, item.planted = encoded(Image.new("RGB", (112, 112), colour)), "blank"
    for item in foreign:
        item.turns, item.planted = foreign_turns(item.turns, draw), "language"
    copies = [Item(item.picture, item.turns, "exact", item.of) for item in draw.sample(shown, counts["exact"])]
    for item in draw.sample(shown, counts["near"]):
        assert item.picture is not None
        copies.append(Item(changed(item.picture, draw), item.turns, "near", item.of))
    long = [item for item in shown if item.words >= 7]
    for item in draw.sample(long, counts["text"]):
        copies.append(Item(item.picture, edited(item.turns, draw), "text", item.of))
    for number, data in enumerate(write_benchmark(folder / "MMStar.tsv", seed)):
        if number < HIDDEN:
            said = {"human": "<image>\nWhat is this?", "gpt": f"It is picture number {number}."}
            turns = [{"from": who, "value": text} for who, text in said.items()]
            copies.append(Item(crop(data, draw), turns, "hidden", -2 - number, hides=number))
    draw.shuffle(copies)
    for copy in copies:  # anywhere behind the first tenth
        items.insert(draw.randint(len(items) // 10, len(items)), copy)
    return items


def foreign_turns(turns: list[dict[str, str]], draw: random.Random) -> list[dict[str, str]]:
    """Turns with answers in Chinese."""
    said = [{**turn, "value": "，".join(draw.sample(FOREIGN, 3)) + "。"} for turn in turns if turn["from"] == "gpt"]
    return [said.pop(0) if turn["from"] == "gpt" else turn for turn in turns]


def write_benchmark(path: Path, seed: int) -> Iterator[bytes]:
    """A table as VLMEvalKit has it, of pictures that are in no sample; yields them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tasks = tuple(task for task in TASKS if task != "text_qa")
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "question", "A", "B", "answer", "image"])
        for number in range(ROWS):
            data = base_item(number, seed + 1, "heldout", 224, tasks).picture
            assert data is not None
            asked = f"What is shown in picture {number}?"
            writer.writerow([number, asked, "this", "that", "A", base64.b64encode(data).decode()])
            yield data


def write(items: list[Item], folder: Path, per_shard: int = 2000) -> None:
    """The samples as WebDataset tars; the key is the sample's place."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(items), per_shard):
        with tarfile.open(folder / f"{first // per_shard:05d}.tar", "w") as tar:
            for place, item in enumerate(items[first : first + per_shard], first):
                members = [("json", json.dumps({"conversations": item.turns}, ensure_ascii=False).encode())]
                members += [] if item.picture is None else [("jpg", item.picture)]
                for ending, data in members:
                    info = tarfile.TarInfo(f"{place:08d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def sailctl(*arguments: str) -> float:
    """Run a command and return its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sailctl", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def natural(left: Item, right: Item) -> bool:
    """Whether two samples are equal in every pixel and word though nobody planted it."""
    if left.turns != right.turns or (left.picture is None) != (right.picture is None):
        return False
    if left.picture is None or right.picture is None:
        return True
    one, other = (Image.open(io.BytesIO(data)).convert("RGB") for data in (left.picture, right.picture))
    return one.size == other.size and one.tobytes() == other.tobytes()


def judge_dedup(items: list[Item], verdicts: Path) -> dict[str, dict[str, Any]]:
    """Recall of every kind that was planted, and the precision of what was dropped, by the kind it was called."""
    rows = {int(row["key"]): row for row in read_rows(verdicts)}
    places = {(row["shard"], row["row"]): place for place, row in rows.items()}
    found: dict[str, dict[str, Any]] = {}
    groups: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item.of, []).append(place)
    for kind in ("exact", "near", "text"):
        planted = [place for place, item in enumerate(items) if item.planted == kind]
        # A copy is found when one of it and the sample it was made of is gone.
        hit = sum(any(not rows[other]["keep"] for other in _pair(items, groups, place)) for place in planted)
        found[kind] = {"planted": len(planted), "recall": hit / len(planted)}
    dropped = {
        place: _is_right(items, place, places[row["kept_shard"], row["kept_row"]])
        for place, row in rows.items()
        if row["kind"]
    }
    for kind in ("bytes", "pixels", "image", "text", "both", "anything"):
        right = {place: good for place, good in dropped.items() if kind in (rows[place]["kind"], "anything")}
        if right:
            precision, wrong = sum(right.values()) / len(right), [place for place, good in right.items() if not good]
            found[f"dropped as {kind}"] = {"dropped": len(right), "precision": precision, "wrong": wrong[:5]}
    return found


def _pair(items: list[Item], groups: dict[int, list[int]], place: int) -> list[int]:
    return [place, *(other for other in groups[items[place].of] if items[other].number == items[place].of)]


def _is_right(items: list[Item], place: int, kept: int) -> bool:
    left, right = items[place], items[kept]
    return left.of == right.of or natural(left, right)


def judge_decontaminate(items: list[Item], verdicts: Path) -> dict[str, Any]:
    """How many of the hidden pictures are found, and how much of what is found was hidden."""
    dropped = {int(row["key"]) for row in read_rows(verdicts) if row["reason"] == "contaminated"}
    hidden = {place for place, item in enumerate(items) if item.planted == "hidden"}
    return {
        "planted": len(hidden), "found": len(hidden & dropped), "recall": len(hidden & dropped) / len(hidden),
        "dropped": len(dropped), "precision": len(hidden & dropped) / max(len(dropped), 1),
        "wrong": sorted(dropped - hidden)[:5],
    }  # fmt: skip


def judge_filter(items: list[Item], verdicts: Path, rule: str) -> dict[str, Any]:
    """Recall and precision of a filter's rule, which is called as what was planted."""
    dropped = {int(row["key"]) for row in read_rows(verdicts) if rule in row["hits"].split(",")}
    planted = {place for place, item in enumerate(items) if item.planted == rule}
    recall, precision = len(planted & dropped) / max(len(planted), 1), len(planted & dropped) / max(len(dropped), 1)
    return {"planted": len(planted), "dropped": len(dropped), "recall": recall, "precision": precision}


def main() -> None:
    """Plant, run the commands, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/planted"))
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    work: Path = asked.work
    items = plant(asked.samples, asked.seed, work / "tables")
    write(items, work / "data")
    common = ["--data", str(work / "data"), "--processes", str(asked.processes), "--json"]
    seconds = {"dedup": sailctl("curate", "dedup", *common, "--out", str(work / "dedup"))}
    found: dict[str, Any] = judge_dedup(items, work / "dedup")
    against = ["--against", str(work / "tables"), "--out", str(work / "decontaminate")]
    seconds["decontaminate"] = sailctl("curate", "decontaminate", *common, *against)
    found["hidden"] = judge_decontaminate(items, work / "decontaminate")
    (work / "rules.yaml").write_text("rules:\n- language: {keep: [en]}\n- blank\n")
    rules = ["--rules", str(work / "rules.yaml"), "--out", str(work / "filter")]
    seconds["filter"] = sailctl("curate", "filter", *common, *rules)
    found |= {rule: judge_filter(items, work / "filter", rule) for rule in ("blank", "language")}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    for name, one in found.items():
        print(f"{name:20}", json.dumps(one), flush=True)
    print("seconds", json.dumps({name: round(value, 1) for name, value in seconds.items()}), f"peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
