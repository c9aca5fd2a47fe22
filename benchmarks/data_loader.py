"""Samples/s a core of decode, tile, tokenise and pack: our loader against webdataset and Pillow doing the same work.

python benchmarks/data_loader.py                # side by side, round after round, in one process
python benchmarks/data_loader.py --workers 2    # the same, each with worker processes
python benchmarks/data_loader.py --long 200000  # our loader alone: memory over a long stream, resuming at 1% and at 90%

Pictures are generated: smooth noise with some grain, 640x480 to 1600x1200, JPEG at quality 90, half of them with a
bare caption (img2dataset layout), half with a conversation of two rounds (LLaVA layout). Tiles of 448 pixels, up to 10
and a thumbnail, 256 tokens a tile, packs of 16,384 tokens and 48 tiles. Both sides follow the model card's grid rule,
use one tokenizer and the same chat template. The other side reads in order and concatenates samples until the next
would not fit; ours shuffles, hashes ids, chooses by cost, and guards against broken pictures: that is in its time.
A core's second is a second of processor time, of all processes together.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from sailctl.core import images
from sailctl.core.data.encode import Encoder, caption_prompt, full_turns
from sailctl.core.data.loader import Loader
from sailctl.core.data.packing import merge
from sailctl.core.data.sources import open_source
from sailctl.core.model.presets import preset
from sailctl.core.model.template import chat_template, encode_turns
from sailctl.core.model.tokenizer import add_markers, load_tokenizer
from sailctl.core.records import Turn, sample_id
from sailctl.core.schema.data import DataConfig, SourceConfig
from sailctl.core.schema.load import recipe_root

SIZES = [(640, 480), (480, 640), (800, 600), (1024, 768), (1024, 683), (768, 1024), (1280, 960), (1600, 1200)]
ANSWER = (
    "A narrow street runs between old stone houses towards a small harbour. Two people in yellow jackets walk past a "
    "blue door, and a bicycle with a wicker basket leans on the wall beside it. Behind the roofs the masts of sailing "
    "boats stand against a pale evening sky, and a flock of gulls circles over the quay. "
)
MODEL = preset("sail-vl-2b")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96, help="samples of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--long", type=int, metavar="SAMPLES", help="our loader over this many small pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        found = long_run(options, Path(folder)) if options.long else side_by_side(options, Path(folder))
    print(json.dumps(found) if options.json else "\n".join(f"{name:44s} {value}" for name, value in found.items()))


# --- the data ------------------------------------------------------------------------------------------------------


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG of smooth noise: four scales, the finest a little grain."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.float32)
    for scale, share in ((160, 0.5), (32, 0.25), (8, 0.15), (2, 0.1)):
        coarse = generator.integers(0, 256, (max(2, height // scale), max(2, width // scale), 3), dtype=np.uint8)
        pixels += share * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_tar(path: Path, samples: Iterator[tuple[bytes, str, str]]) -> str:
    """A tar of (picture, suffix of its text, text)."""
    with tarfile.open(path, "w") as tar:
        for number, (picture, suffix, text) in enumerate(samples):
            for name, data in ((f"{number:07d}.jpg", picture), (f"{number:07d}.{suffix}", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def photo_tars(folder: Path, samples: int) -> list[str]:
    """Two tars of the same pictures, one in either layout."""
    pictures = [photo(*SIZES[number % len(SIZES)], seed=number) for number in range(samples // 2)]
    turns = [
        {"from": "human", "value": "<image>\nWhat does the picture show?"},
        {"from": "gpt", "value": ANSWER},
        {"from": "human", "value": "And what is behind the roofs?"},
        {"from": "gpt", "value": ANSWER[-120:]},
    ]
    return [
        write_tar(folder / "captions.tar", ((picture, "txt", 2 * ANSWER) for picture in pictures)),
        write_tar(
            folder / "talks.tar", ((picture, "json", json.dumps({"conversations": turns})) for picture in pictures)
        ),
    ]


def tokenizer_and_markers() -> Any:
    """The tiny recipe's tokenizer, with the markers of the SAIL-VL family."""
    tokenizer = load_tokenizer(recipe_root() / "tiny" / "base" / "llm")
    add_markers(tokenizer)
    return tokenizer


def data_config(paths: list[str], **changes: Any) -> DataConfig:
    """The mixture of both tars, caps as in the paper's SFT."""
    sources = [SourceConfig(name=Path(path).stem, path=path) for path in paths]
    return DataConfig(sources=sources, **{"pack_tokens": 16384, "pack_tiles": 48, **changes})


# --- the other side ----------------------------------------------------------------------------------------------


class Plain:
    """Decode with Pillow, tile as the model card does, tokenise: one sample to (input_ids, supervised, tiles)."""

    def __init__(self, tokenizer: Any, data: DataConfig, size: int, tokens_per_tile: int) -> None:
        self.tokenizer, self.data, self.size, self.tokens_per_tile = tokenizer, data, size, tokens_per_tile
        self.template = chat_template(MODEL.template)

    def __call__(self, sample: dict[str, Any]) -> tuple[list[int], list[bool], torch.Tensor]:
        tiles = self.tiles(sample["jpg"])
        if "json" in sample:
            turns = [
                ("user" if t["from"] == "human" else "assistant", t["value"]) for t in sample["json"]["conversations"]
            ]
        else:
            turns = [("user", "<image>\n" + caption_prompt("0" * 16, sample["txt"])), ("assistant", sample["txt"])]
        return *self.tokens(turns, len(tiles)), tiles

    def tiles(self, image: Image.Image) -> torch.Tensor:
        """The parts as one uint8 tensor, colour planes first."""
        return torch.stack([torch.from_numpy(np.array(part)).permute(2, 0, 1) for part in self.parts(image)])

    def parts(self, image: Image.Image) -> list[Image.Image]:
        """`dynamic_preprocess`: resize to the grid, crop, thumbnail."""
        columns, rows = images.choose_grid(
            *image.size, min_tiles=self.data.min_tiles, max_tiles=self.data.max_tiles, tile_size=self.size
        )
        resized = image.resize((columns * self.size, rows * self.size), Image.Resampling.BICUBIC)
        parts = []
        for number in range(columns * rows):
            left, top = number % columns * self.size, number // columns * self.size
            parts.append(resized.crop((left, top, left + self.size, top + self.size)))
        if len(parts) > 1:
            parts.append(image.resize((self.size, self.size), Image.Resampling.BICUBIC))
        return parts

    def tokens(self, turns: list[tuple[str, str]], num_tiles: int) -> tuple[list[int], list[bool]]:
        """A turn's text in one go; the image's tokens by id."""
        ids = self.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>"])
        start, end, image_start, context, image_end = ids
        input_ids: list[int] = []
        supervised: list[bool] = []
        for role, text in turns:
            before, _, after = text.partition("<image>") if role == "user" else (text, "", "")
            head = [start, *self.tokenizer(f"{role}\n{before}" if role == "user" else f"{role}\n").input_ids]
            if role == "user" and "<image>" in text:
                head += [image_start, *[context] * (num_tiles * self.tokens_per_tile), image_end]
                head += self.tokenizer(after).input_ids
            body = self.tokenizer(text).input_ids if role == "assistant" else []
            input_ids += [*head, *body, end]
            supervised += [False] * len(head) + [role == "assistant"] * (len(body) + 1)
        return input_ids, supervised


def concatenated(samples: Iterator[Any], data: DataConfig) -> Iterator[dict[str, Any]]:
    """Packs of samples one after the other, until the next would not fit."""
    group: list[Any] = []
    tokens = tiles = 0
    for sample in samples:
        if group and (tokens + len(sample[0]) > data.pack_tokens or tiles + len(sample[2]) > data.pack_tiles):
            yield concatenate(group)
            group, tokens, tiles = [], 0, 0
        group.append(sample)
        tokens, tiles = tokens + len(sample[0]), tiles + len(sample[2])
    if group:
        yield concatenate(group)


def concatenate(group: list[Any]) -> dict[str, Any]:
    """One row with labels, restarting positions and borders."""
    input_ids = torch.tensor([token for ids, _, _ in group for token in ids])
    supervised = torch.tensor([mark for _, marks, _ in group for mark in marks])
    lengths = torch.tensor([len(ids) for ids, _, _ in group])
    return {
        "input_ids": input_ids,
        "labels": torch.where(supervised, input_ids, -100),
        "position_ids": torch.cat([torch.arange(length) for length in lengths.tolist()]),
        "cu_seqlens": torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int(),
        "tiles": torch.cat([tiles for _, _, tiles in group]),
        "num_samples": len(group),
    }


def as_it_is(sample: Any) -> Any:
    """No collation: samples are packed, not batched."""
    return sample


def plain_samples(paths: list[str], plain: Plain, workers: int) -> Iterable[Any]:
    """What one pass over the tars gives; worker processes stay for the next pass."""
    dataset = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode("pil").map(plain)
    if not workers:
        return dataset
    return DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=as_it_is, persistent_workers=True)


# --- side by side ------------------------------------------------------------------------------------------------


def side_by_side(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both take turns over the same samples; medians of their processor time."""
    paths, tokenizer = photo_tars(folder, options.samples), tokenizer_and_markers()
    config = data_config(paths, workers=options.workers)
    plain = Plain(tokenizer, config, MODEL.vision.image_size, MODEL.tokens_per_tile)
    encoder = Encoder(tokenizer, MODEL, config)
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    walls: dict[str, list[float]] = {"plain": [], "ours": []}
    samples = plain_samples(paths, plain, options.workers)
    with Loader(config, encoder, seed=0, global_batch_samples=8) as loader:

        def ours() -> int:
            done = 0
            while done < options.samples:
                done += next(loader).num_samples
            return done

        def other() -> int:
            return sum(pack["num_samples"] for pack in concatenated(iter(samples), config))

        sides: list[tuple[str, Callable[[], int]]] = [("plain", other), ("ours", ours)]
        for _, run in sides:
            run()  # imports, the index, the probe, workers' start
            idle()
        for _ in range(options.rounds):
            for name, run in sides:
                clock = Clock()
                done = run()
                waited = idle()  # what was taken from the prefetched is made again, on this side's account
                cpu, wall = clock.seconds()
                rates[name].append(done / cpu)
                walls[name].append(done / (wall - waited))
    per_core = {name: median(found) for name, found in rates.items()}
    result: dict[str, Any] = {
        "samples/s/core, webdataset + Pillow": round(per_core["plain"], 2),
        "samples/s/core, sailctl": round(per_core["ours"], 2),
        "ratio": round(per_core["ours"] / per_core["plain"], 2),
        "ratios of the rounds": [round(o / p, 2) for o, p in zip(rates["ours"], rates["plain"], strict=True)],
    }
    if options.workers:
        result["samples/s, webdataset + Pillow"] = round(median(walls["plain"]), 2)
        result["samples/s, sailctl"] = round(median(walls["ours"]), 2)
    return {**result, **where_time_goes(config, encoder, plain)}


class Clock:
    """Processor and wall-clock time since it was made; processor time of living and ended children too."""

    def __init__(self) -> None:
        self.start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        own = os.times()
        living = sum(map(processor_seconds, descendants(os.getpid())))
        return own.user + own.system + own.children_user + own.children_system + living, time.perf_counter()

    def seconds(self) -> tuple[float, float]:
        """Processor and wall-clock seconds."""
        cpu, wall = self._now()
        return cpu - self.start[0], wall - self.start[1]


def idle() -> float:
    """Wait until no child works any more; returns the seconds by which this came too late."""
    seconds, since = -1.0, time.perf_counter()
    while time.perf_counter() - since < 0.3:
        now = sum(map(processor_seconds, descendants(os.getpid())))
        if now > seconds + 0.011:  # a watching thread's wake-up is no work
            seconds, since = now, time.perf_counter()
        time.sleep(0.01)
    return time.perf_counter() - since


def descendants(process: int) -> list[int]:
    """Ids of a process's living children, and theirs."""
    try:
        children = [int(name) for name in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return children + [far for child in children for far in descendants(child)]


def processor_seconds(process: int) -> float:
    """User and system time of a process so far."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def where_time_goes(config: DataConfig, encoder: Encoder, plain: Plain) -> dict[str, str]:
    """Milliseconds a sample of each part, ours and, where it has the like, the other side's."""
    spent: dict[str, float] = {}

    def timed(name: str, action: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        value = action(*arguments)
        spent[name] = spent.get(name, 0.0) + time.process_time() - start
        return value

    def decode(data: bytes) -> Image.Image:
        return images.decode(data, max_pixels=config.max_image_pixels)

    def tile(picture: Image.Image) -> np.ndarray:
        return images.tile(
            picture,
            tile_size=encoder.tile_size,
            min_tiles=config.min_tiles,
            max_tiles=config.max_tiles,
            thumbnail=config.thumbnail,
        )

    def tokenise(turns: Sequence[Turn], num_tiles: int) -> Any:
        return encode_turns(encoder.tokenizer, encoder.template, turns, [num_tiles], MODEL.tokens_per_tile)

    count = 0
    for source in map(open_source, config.sources):
        encoded = []
        for ordinal in range(min(32, len(source))):
            sample = timed("read, parse and hash", source.read, ordinal)
            timed("hash", sample_id, sample.images, sample.turns)
            picture = timed("decode", decode, sample.images[0])
            tiles = timed("resize and cut", tile, picture)
            timed("resize and cut, Pillow", plain.tiles, picture)
            turns = full_turns(sample)
            timed("tokenise", tokenise, turns, len(tiles))
            timed("tokenise, plain", plain.tokens, [(turn.role, turn.text) for turn in turns], len(tiles))
            encoded.append(timed("decode, tile and tokenise", encoder.encode, sample))
            count += 1
        for start in range(0, len(encoded), 6):
            timed("merge", merge, encoded[start : start + 6])
        source.close()
    return {f"ms a sample: {name}": f"{1e3 * seconds / count:.2f}" for name, seconds in spent.items()}


# --- a long stream -----------------------------------------------------------------------------------------------


def long_run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Resident memory over a stream of small pictures, and what it costs to resume near its start and near its end."""
    pictures = [photo(56 + number % 32, 48, seed=number) for number in range(64)]
    shards = 20
    for shard in range(shards):
        of_shard = (
            (pictures[n % 64], "txt", f"{shard} {n} {ANSWER[: n % 200]}") for n in range(options.long // shards)
        )
        write_tar(folder / f"{shard:03d}.tar", of_shard)
    small = MODEL.model_copy(update={"vision": MODEL.vision.model_copy(update={"image_size": 28})})
    encoder_config = data_config([str(folder / "*.tar")], workers=options.workers, pack_tokens=4096, max_tiles=4)
    encoder = Encoder(tokenizer_and_markers(), small, encoder_config)
    make = lambda: Loader(encoder_config, encoder, seed=0, global_batch_samples=64)  # noqa: E731
    memory, states = [], {}
    done, marks = 0, [options.long * number // 20 for number in range(1, 21)]
    with make() as loader:
        for share in (0.01, 0.9, 1.0):
            while done < share * options.long:
                done += next(loader).num_samples
                if marks and done >= marks[0]:
                    marks.pop(0)
                    memory.append(round(resident_mib()))
            states[share] = loader.state_dict()
    costs: dict[float, list[float]] = {0.01: [], 0.9: []}
    for _ in range(options.rounds):
        for share, taken in costs.items():
            start = time.perf_counter()
            with make() as loader:
                loader.load_state_dict(states[share])
                next(loader)
                taken.append(time.perf_counter() - start)
    return {
        "samples": done,
        "resident MiB, each twentieth of the stream": memory,
        "growth from the first half's mean to the second's, MiB": round(np.mean(memory[10:]) - np.mean(memory[:10]), 1),
        "seconds to resume to the first step at 1%": round(median(costs[0.01]), 3),
        "seconds to resume to the first step at 90%": round(median(costs[0.9]), 3),
    }


def resident_mib() -> float:
    """Resident memory of this process and all below it."""
    pages = 0
    for process in [os.getpid(), *descendants(os.getpid())]:
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
