"""Make the small pretrained parts that the tiny recipe starts from: a tokenizer, a vision encoder, a language model.

    python scripts/make_tiny_base.py --work runs/base --out recipes/tiny/base

As in the paper, training starts from an encoder that has seen pictures and a language model that has read text. The two
are pretrained here together, by captioning (whole pictures, and one shape of several) and by reading writing, on
generated pictures of another seed than any recipe uses, and on docstrings of the Python standard library, continued
and searched. None of the benchmark's kinds of question but captions and reading is asked here. The projector
that joined them is thrown away: `alignment` has to learn it anew, and questions are first met in the recipe.
Held-out words and held-out tasks are never generated here: only the generator's training split is used.

The run itself is five ordinary stages of our own training code; this file makes their inputs and takes the result
apart.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sailctl.commands.output import Reporter
from sailctl.core.data.synth import vocabulary
from sailctl.core.device import pick
from sailctl.core.files import atomic_write
from sailctl.core.model.weights import load_model
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.run import train_stage

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
VOCAB_SIZE = 2048
BASE_SEED = 7_000_001  # the recipes use small seeds; no picture is made twice


def stdlib_docstrings() -> Iterator[str]:
    """Docstrings of the running Python's standard library in a fixed order: text that every installation carries."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 80:
                    yield text


def build_tokenizer(template_words: list[str], texts: list[str], out: Path) -> PreTrainedTokenizerFast:
    """A lossless tokenizer of whole words and single bytes.

    Template words and the commonest words of `texts` are one token each; everything else is spelled byte by byte. So a
    word read from a picture is read letter by letter, never in pieces that happen to be common. `ignore_merges` looks a
    whole word up before any merge, and there are no merges.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = list(SPECIAL) + alphabet
    known = set(entries)

    def add(entry: str) -> None:
        if entry not in known and len(entries) < VOCAB_SIZE:
            known.add(entry)
            entries.append(entry)

    for word in template_words:
        add("Ġ" + word)
        add(word)
    counts = Counter(word for text in texts for word in re.findall(r"[A-Za-z]+", text))
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        add("Ġ" + word)
    tokenizer = Tokenizer(
        models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    out.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(str(out))
    return fast


def text_passages(texts: list[str], *, characters: int = 240) -> Iterator[str]:
    """Cut texts into passages of about `characters` at white space."""
    for text in texts:
        words = " ".join(text.split()).split(" ")
        passage: list[str] = []
        size = 0
        for word in words:
            passage.append(word)
            size += len(word) + 1
            if size >= characters:
                yield " ".join(passage)
                passage, size = [], 0
        if size > 60:
            yield " ".join(passage)


@dataclass(frozen=True)
class Phase:
    """One phase of the pretraining, run as the stage `stage` of our own trainer."""

    stage: str
    levels: list[int]
    samples: int
    tasks: dict[str, float]
    text: dict[str, float]  # share of the samples by file
    schedule: str
    lr: float


# Difficulty rises: large type and single shapes first. From full difficulty at once nothing is learnt in this time. The
# last two teach to look things up: one thing among several in a picture, a place in a text.
WHOLE = {"caption": 1.5, "ocr_word": 1.0, "ocr_code": 2.0, "ocr_text": 0.7}
TEXT = {"text": 0.08}
PARTS = {"region": 2.0, "caption": 0.7, "ocr_word": 0.5, "ocr_code": 0.7, "ocr_text": 1.0}
MOSTLY_REGIONS = {"region": 5.0, "caption": 0.5, "ocr_word": 0.3, "ocr_code": 0.3, "ocr_text": 0.7}
PHASES = (
    Phase("alignment", [1], 12_800, WHOLE, TEXT, "constant", 3e-3),
    Phase("advance", [1, 2], 22_400, WHOLE, TEXT, "constant", 3e-3),
    Phase("knowledge", [1, 2, 3], 28_800, WHOLE, TEXT, "cosine", 3e-3),
    Phase("instruction", [1, 2, 3], 24_000, PARTS, {"text": 0.1, "search": 0.15}, "cosine", 3e-3),
    Phase("preference", [1, 2], 96_000, MOSTLY_REGIONS, {"search": 0.05}, "cosine", 3e-3),
)


def phase_recipe(phase: Phase, number: int, work: Path) -> Recipe:
    """One phase as an ordinary stage: everything learns, on pictures and running text."""
    pictures = {"tasks": phase.tasks, "levels": phase.levels, "samples": phase.samples, "seed": BASE_SEED + number}
    path, weight = str(work / f"data-{phase.stage}"), 1 - sum(phase.text.values())
    sources: list[dict[str, Any]] = [{"name": "pictures", "path": path, "weight": weight, "synth": pictures}]
    sources += [{"name": name, "path": str(work / f"{name}.jsonl"), "weight": w} for name, w in phase.text.items()]
    return Recipe.model_validate(
        {
            "name": "tiny-base",
            "stage": phase.stage,
            "bootstrap": True,
            "model": {"preset": "tiny", "tokenizer": str(work / "tokenizer")},
            "data": {"sources": sources, "pack_tokens": 4096, "pack_tiles": 64},
            "train": {
                "global_batch_samples": 32,
                "lr": phase.lr,
                "optimizer": "muon",
                "weight_decay": 0.01,
                "loss_weighting": "sqrt",
                "schedule": phase.schedule,
                "max_samples": phase.samples,
                "save_every": 250,
                "seed": BASE_SEED,
            },
        }
    )


def continuations(texts: list[str]) -> Iterator[tuple[str, str]]:
    """(question, answer): a passage goes on from its beginning."""
    for passage in text_passages(texts):
        words = passage.split(" ")
        yield "Continue: " + " ".join(words[:4]), " ".join(words[4:])


def searches(texts: list[str]) -> Iterator[tuple[str, str]]:
    """(question, answer): a passage and two of its words; the answer is what follows them there."""
    for number, passage in enumerate(text_passages(texts)):
        words = passage.split(" ")
        pairs = Counter(pairwise(words))
        spots = [k for k in range(len(words) - 6) if pairs[words[k], words[k + 1]] == 1]
        if spots:
            spot = spots[number * 7919 % len(spots)]
            yield f"{passage}\nFind: {words[spot]} {words[spot + 1]}", " ".join(words[spot + 2 : spot + 6])


def write_text(conversations: Iterable[tuple[str, str]], path: Path) -> None:
    """Text-only conversations as LLaVA JSONL."""
    with atomic_write(path) as handle:
        for number, (question, answer) in enumerate(conversations):
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            handle.write((json.dumps({"id": f"text-{number}", "conversations": turns}) + "\n").encode())


def save_parts(run_dir: Path, out: Path) -> None:
    """Write tower and language model as stock transformers folders in fp16; the projector stays behind."""
    loaded = load_model(run_dir, device=pick("cpu"), dtype=torch.float32)
    for name in ("vision", "llm"):
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        getattr(loaded.model, name).half().save_pretrained(folder)
    loaded.tokenizer.save_pretrained(out / "llm")
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {total:,} bytes")


def main() -> None:
    """Tokenizer, text, the phases of training, and the two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs; a rerun goes on there")
    parser.add_argument("--out", type=Path, required=True, help="where the parts go")
    args = parser.parse_args()
    texts = list(stdlib_docstrings())
    if not (args.work / "search.jsonl").is_file():
        build_tokenizer(vocabulary(), texts, args.work / "tokenizer")
        write_text(continuations(texts), args.work / "text.jsonl")
        write_text(searches(texts), args.work / "search.jsonl")
    parent = None
    for number, phase in enumerate(PHASES):
        out = args.work / phase.stage
        result = train_stage(
            phase_recipe(phase, number, args.work),
            recipe_dir=args.work,
            out=out,
            checkpoint=parent,
            resume=True,
            device="cpu",
            reporter=Reporter(),
        )
        print(f"{phase}: loss {result.loss_first:.3f} → {result.loss_last:.3f}, {result.seconds:.0f} s", flush=True)
        parent = str(out)
    save_parts(args.work / PHASES[-1].stage, args.out)


if __name__ == "__main__":
    main()
