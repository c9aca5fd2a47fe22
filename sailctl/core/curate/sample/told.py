"""What is told of a sample: sizes of groups before and after, n-grams where they decided."""

from __future__ import annotations

from typing import Any

ROWS_SHOWN = 20
NGRAMS_OF = (("all that may be drawn", "before"), ("as many by chance", "by_chance"), ("drawn", "drawn"))
Table = tuple[str, list[str], list[list[str]]]


def describe(summary: dict[str, Any], *, dry_run: bool) -> tuple[list[Table], list[str]]:
    """Tables and lines for people."""
    tables: list[Table] = []
    if summary["by"] is not None:
        shown = [
            [one["group"], f"{one['samples']:,}", f"{one['drawn']:,}", _share(one["drawn"], summary["drawn"])]
            for one in summary["groups"][:ROWS_SHOWN]
        ]
        if (rest := summary["num_groups"] - len(shown)) > 0:
            others = summary["groups"][ROWS_SHOWN:]
            known = summary["num_groups"] == len(summary["groups"])
            counted = [f"{sum(one[name] for one in others):,}" if known else "" for name in ("samples", "drawn")]
            shown.append([f"{rest:,} more", *counted, ""])
        tables.append((f"By {summary['by']}", ["group", "samples", "drawn", "share"], shown))
    if "ngrams" in summary:
        rows = [
            [title, f"{one['captions']:,}", f"{one['distinct']:,}", f"{one['distinct_per_caption']:.2f}",
             f"{one['entropy_bits']:.3f}"]
            for title, one in ((title, summary["ngrams"][name]) for title, name in NGRAMS_OF)
        ]  # fmt: skip
        head = ["captions of", "captions", "distinct", "per caption", "entropy, bits"]
        tables.append((f"{summary['ngrams']['n']}-grams", head, rows))
    lost = ", ".join(f"{reason} {count:,}" for reason, count in summary["dropped"].items())
    verb = "would draw" if dry_run else "drew"
    lines = [f"{verb} {summary['drawn']:,} of {summary['samples']:,} samples, seed {summary['seed']}"]
    if lost:
        lines.append(f"{summary['eligible']:,} could be drawn; dropped before: {lost}")
    if "t" in summary:
        within = "" if summary["cap"] is None else f", none of them more than {summary['cap']:,}"
        lines.append(
            f"concepts of more than t = {summary['t']:.4g} captions kept each with chance t / captions{within}"
        )
    return tables, lines


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "0%"
