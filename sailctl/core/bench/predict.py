"""Answers of a model to a suite's items, kept by content: asking again costs nothing, a crash loses one chunk.

A prediction's key is a hash of the weights, the prompt, the image bytes and the limits. Whatever has the same key has
the same answer, so blind runs of image-free tasks, larger `samples` and reruns share what is there already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sailctl.core.bench.suite_synth import TASKS, Item, Task, grey
from sailctl.core.errors import DataError
from sailctl.core.files import append_jsonl, read_jsonl
from sailctl.core.records import Turn

if TYPE_CHECKING:
    from sailctl.core.engines.local import LocalEngine


class Reporter(Protocol):
    """Whoever shows progress to the user."""

    def info(self, line: str) -> None:
        """Say something once."""

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        """Begin a piece of work."""

    def update(self, completed: float) -> None:
        """Set the units done so far."""

    def finish(self) -> None:
        """End the piece of work."""


class PredictionStore:
    """An append-only JSONL of {"key", "prediction"}; a line torn by a kill is not there. DataError for other damage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            rows = read_jsonl(path) if path.exists() else []
            self._predictions: dict[str, str] = {row["key"]: row["prediction"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: holds what is no prediction ({error}); remove the file to ask again") from error

    def __contains__(self, key: str) -> bool:
        return key in self._predictions

    def __getitem__(self, key: str) -> str:
        return self._predictions[key]

    def add(self, predictions: Mapping[str, str]) -> None:
        """Keep new predictions; those already there are left alone."""
        new = {key: text for key, text in predictions.items() if key not in self._predictions}
        append_jsonl(self.path, [{"key": key, "prediction": text} for key, text in new.items()])
        self._predictions.update(new)


def predict(
    engine: LocalEngine,
    items: Mapping[str, Sequence[Item]],
    store: PredictionStore,
    *,
    weights: str,
    max_tiles: int | None,
    chunk: int,
    label: str,
    blind: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, list[str]]:
    """Greedy answers to every item, by task and in order; `blind` shows grey images of the same size instead.

    `weights` is the model's fingerprint, `chunk` the number of answers made (and kept) at a time, `label` what the
    progress is called.
    """
    from sailctl.core.engines.local import Request

    asked = {
        task.name: [_question(task, item, weights, max_tiles, blind) for item in items[task.name]]
        for task in TASKS
        if task.name in items
    }
    wanted = sum(len(questions) for questions in asked.values())
    done = sum(key in store for questions in asked.values() for key, _, _ in questions)
    if reporter is not None:
        reporter.start(label, wanted, completed=done, unit="answers")
    for task in TASKS:
        missing = {key: (item, image) for key, item, image in asked.get(task.name, []) if key not in store}
        keys = list(missing)
        for start in range(0, len(keys), chunk):
            part = keys[start : start + chunk]
            requests = [
                Request(
                    turns=(Turn("user", item.prompt),),
                    images=() if image is None else (image,),
                    max_new_tokens=task.max_new_tokens,
                    max_tiles=max_tiles,
                )
                for item, image in (missing[key] for key in part)
            ]
            completions = engine.generate(requests)
            store.add({key: completion.text for key, completion in zip(part, completions, strict=True)})
            done += len(part)
            if reporter is not None:
                reporter.update(done)
    if reporter is not None:
        reporter.finish()
    return {name: [store[key] for key, _, _ in questions] for name, questions in asked.items()}


def _question(
    task: Task, item: Item, weights: str, max_tiles: int | None, blind: bool
) -> tuple[str, Item, bytes | None]:
    """The key of one answer, with what is asked and shown."""
    image = grey(item.image) if blind and item.image is not None else item.image
    digest = hashlib.blake2b(digest_size=16)
    for field in (weights, item.prompt, str(task.max_new_tokens), str(max_tiles), "" if image is None else "image"):
        data = field.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    digest.update(image or b"")
    return digest.hexdigest(), item, image
