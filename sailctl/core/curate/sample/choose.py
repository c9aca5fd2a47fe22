"""The drawing itself: from the candidates of all parts to a bit a sample, and what is to be told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sailctl.core.curate.join import packed_ids
from sailctl.core.curate.parts import Part
from sailctl.core.curate.sample.concepts import Concepts
from sailctl.core.curate.sample.draw import (
    chances,
    concept_chances,
    concept_threshold,
    draw,
    ranked,
    uniform,
    within_cap,
)
from sailctl.core.curate.sample.ngrams import GramCounts
from sailctl.core.curate.sample.quota import allot
from sailctl.core.curate.sample.rows import NO_CONCEPT, NO_GROUP, NO_VERDICT
from sailctl.core.errors import UsageError

GROUPS_TOLD = 1000  # in a summary, the largest


class Wish(Protocol):
    """What of a request decides the drawing."""

    by: str | None
    cap: int | None
    natural: bool
    concepts: Path | None
    embeddings: str | None
    even_ngrams: int | None
    seed: int


class Choice(NamedTuple):
    """Who was drawn, a bit a sample packed in bytes, and the summary."""

    bits: np.ndarray
    summary: dict[str, Any]


@dataclass
class Population:
    """All who may be drawn, E of them, in the order of the data."""

    place: np.ndarray  # (E,) among all samples
    number: np.ndarray  # (E,) in (0, 1), by id and seed
    group: np.ndarray  # (E,) which of `names`
    names: list[str]
    member: np.ndarray  # (M,) pairs of one of E and one of its concepts
    concept: np.ndarray
    dropped: Counter[str]  # who may not be drawn, by reason

    def __len__(self) -> int:
        return len(self.place)

    def sizes(self, of: np.ndarray | None = None) -> dict[str, int]:
        """How many there are of each group, or of those at places `of` (of E)."""
        counted = np.bincount(self.group if of is None else self.group[of], minlength=len(self.names))
        return dict(zip(self.names, (int(one) for one in counted), strict=True))


def choose(
    tables: Iterable[tuple[Part, Path]], total: int, wish: Wish, size: int | None, quotas: dict[str, Fraction]
) -> Choice:
    """Draw from the candidates in `tables`. Raises UsageError where there are fewer than asked for."""
    paths = [path for _, path in tables]
    all_of = gather(paths, wish)
    if not len(all_of):
        raise UsageError(f"nothing to draw from: {_before(total, all_of)}")
    weights, grams = np.ones(len(all_of)), None
    if wish.even_ngrams is not None:
        grams = GramCounts()
        for _, hashes, _ in _grams(paths):
            grams.add(hashes)
        weights = np.concatenate([grams.rarity(hashes, lengths) for _, hashes, lengths in _grams(paths)])
    if wish.concepts is not None:
        names = Concepts.read(wish.concepts).names
        drawn, chance_alone, told = _by_concepts(all_of, weights, names, wish, size)
    else:
        try:
            given = allot(size, all_of.sizes(), wish.cap, quotas, natural=wish.natural)
        except UsageError as error:
            raise UsageError(f"{error} ({_before(total, all_of)})") from None
        drawn, chance_alone = _of_groups(all_of, weights, given), _of_groups(all_of, np.ones(len(all_of)), given)
        told = _groups(all_of.sizes(), given)
    keep = np.zeros(total, dtype=bool)
    keep[all_of.place[drawn]] = True
    reasons = {reason: count for reason, count in sorted(all_of.dropped.items())}
    summary: dict[str, Any] = {
        "samples": total, "eligible": len(all_of), "drawn": len(drawn), "by": wish.by, "seed": wish.seed,
        "dropped": reasons, **(told if wish.by is not None else {}),
    }  # fmt: skip
    if grams is not None:
        assert wish.even_ngrams is not None
        summary["ngrams"] = {"n": wish.even_ngrams, "before": _told(grams, len(all_of))}
        for name, chosen in (("drawn", drawn), ("by_chance", chance_alone)):
            summary["ngrams"][name] = _told(_counted(paths, len(all_of), chosen), len(chosen))
    return Choice(np.packbits(keep), summary)


def gather(paths: Iterable[Path], wish: Wish) -> Population:
    """Read who may be drawn, a part at a time. Raises UsageError where verdicts or embeddings lack samples."""
    import pyarrow.parquet as pq

    known: dict[str, int] = {}
    place, number, group, member, concept = [], [], [], [], []
    dropped: Counter[str] = Counter()
    first = count = 0
    for path in paths:
        columns = ["id", "key", "reason", "detail", "group", *(["concepts"] if wish.concepts is not None else [])]
        table = pq.read_table(path, columns=columns)
        reasons = table["reason"].to_pylist()
        if NO_VERDICT in reasons:
            at = reasons.index(NO_VERDICT)
            raise UsageError(
                f"--verdicts {table['detail'][at]}: say nothing of sample {table['key'][at]}; give verdicts on all "
                "the data, or only the data they are on"
            )
        may = np.array([not reason for reason in reasons], dtype=bool)
        if wish.concepts is not None:
            found = table["concepts"].to_pylist()
            none = np.array([not one for one in found], dtype=bool)
            dropped[NO_CONCEPT] += int((may & none).sum())
            may &= ~none
            found = [one for one, wanted in zip(found, may, strict=True) if wanted]
            member.append(np.repeat(np.arange(count, count + len(found)), [len(one) for one in found]))
            concept.append(np.array([one for several in found for one in several], dtype=np.int64))
        dropped.update(reason for reason in reasons if reason)
        keys = table["key"].filter(may)
        names = table["group"].filter(may).to_pylist() if wish.concepts is None else [""] * int(may.sum())
        if wish.embeddings is not None and NO_GROUP in names:
            raise UsageError(
                f"--embeddings {wish.embeddings}: hold no vector for sample {keys[names.index(NO_GROUP)]}; embed all "
                "the samples, or drop the others with --verdicts"
            )
        place.append(first + np.flatnonzero(may))
        number.append(uniform(packed_ids(table["id"].filter(may)), wish.seed))
        group.append(np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32))
        first, count = first + len(may), count + int(may.sum())
    return Population(
        _joined(place), _joined(number), _joined(group), list(known), _joined(member), _joined(concept),
        Counter({reason: times for reason, times in dropped.items() if times}),
    )  # fmt: skip


def _of_groups(all_of: Population, weights: np.ndarray, given: dict[str, int]) -> np.ndarray:
    """Who of E is drawn: of every group what it gives."""
    order = np.argsort(all_of.group, kind="stable")
    ends = np.cumsum(np.bincount(all_of.group, minlength=len(all_of.names)))
    drawn = []
    for at, name in enumerate(all_of.names):
        of = order[ends[at - 1] if at else 0 : ends[at]]
        if given[name]:
            drawn.append(of[draw(chances(weights[of], given[name]), all_of.number[of], given[name])])
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)


def _by_concepts(
    all_of: Population, weights: np.ndarray, names: tuple[str, ...], wish: Wish, size: int | None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Who of E is drawn, who would be without weights, and what is told of the concepts."""
    counts = np.bincount(all_of.concept, minlength=len(names)).astype(np.float64)

    def of(t: float) -> np.ndarray:
        return concept_chances(all_of.member, all_of.concept, counts, len(all_of), t)

    def pick(t: float, expected: int, weights: np.ndarray) -> np.ndarray:
        order = ranked(chances(of(t) * weights, expected), all_of.number)
        if wish.cap is None:
            return np.sort(order[:size])
        return within_cap(order, all_of.member, all_of.concept, wish.cap, size)

    cap = float(wish.cap or counts.max())
    tries = [(cap, round(float(of(cap).sum())))]  # without a size, and for the largest one
    if size is not None:
        t = concept_threshold(all_of.member, all_of.concept, counts, len(all_of), size)
        tries.insert(0, (min(t, cap), min(size, len(all_of))))
    for t, expected in tries:
        drawn = pick(t, expected, weights)
        if size is None or len(drawn) == size:
            break
    else:
        what = "samples name a concept" if wish.cap is None else f"samples are what --cap {wish.cap} leaves"
        raise UsageError(
            f"--samples: {size:,} are asked for, {len(drawn):,} {what}; ask for fewer, or give more concepts"
        )
    alone = pick(t, expected, np.ones(len(all_of)))
    taken = np.zeros(len(all_of), dtype=bool)
    taken[drawn] = True
    after = np.bincount(all_of.concept[taken[all_of.member]], minlength=len(names))
    before = {name: int(count) for name, count in zip(names, counts, strict=True)}
    given = {name: int(count) for name, count in zip(names, after, strict=True)}
    return drawn, alone, {"t": t, "cap": wish.cap, **_groups(before, given)}


def _groups(before: dict[str, int], given: dict[str, int]) -> dict[str, Any]:
    largest = sorted(before, key=lambda name: (-before[name], name))[:GROUPS_TOLD]
    told = [{"group": name, "samples": before[name], "drawn": given[name]} for name in largest]
    return {"num_groups": len(before), "groups": told}


def _before(total: int, all_of: Population) -> str:
    lost = ", ".join(f"{reason} {count:,}" for reason, count in all_of.dropped.most_common(5))
    return f"{total:,} samples, {len(all_of):,} may be drawn" + (f"; dropped before: {lost}" if lost else "")


def _grams(paths: Iterable[Path]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of every part: which rows may be drawn, their n-grams one after another, and how many each has."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for path in paths:
        table = pq.read_table(path, columns=["reason", "group", "grams", *_concepts_of(path)])
        may = np.array([not reason for reason in table["reason"].to_pylist()], dtype=bool)
        if "concepts" in table.column_names:
            may &= np.asarray(pc.list_value_length(table["concepts"]).to_numpy()) > 0
        lists = table["grams"].filter(may).combine_chunks()
        lengths = np.asarray(pc.list_value_length(lists).to_numpy(zero_copy_only=False), dtype=np.int64)
        yield may, np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64), lengths


def _concepts_of(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return ["concepts"] if "concepts" in pq.read_schema(path).names else []


def _counted(paths: Iterable[Path], eligible: int, chosen: np.ndarray) -> GramCounts:
    counts, first = GramCounts(), 0
    taken = np.zeros(eligible, dtype=bool)
    taken[chosen] = True
    for _, hashes, lengths in _grams(paths):
        counts.add(hashes[np.repeat(taken[first : first + len(lengths)], lengths)])
        first += len(lengths)
    return counts


def _told(counts: GramCounts, captions: int) -> dict[str, Any]:
    spread = counts.spread()
    return {
        "captions": captions, "ngrams": spread.total, "distinct": spread.distinct,
        "distinct_per_caption": round(spread.distinct / max(captions, 1), 4),
        "entropy_bits": round(spread.entropy_bits, 4),
    }  # fmt: skip


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
