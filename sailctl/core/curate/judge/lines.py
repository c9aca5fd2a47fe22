"""What a judged run tells people: tables of means and of agreement, and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TableOf = tuple[str, list[str], list[list[str]]]
_TITLES = {
    "quality": "Caption quality",
    "sft": "SFT data",
    "gsb": "Good-Same-Bad of the candidate against the reference",
}


def tables_of(report: Mapping[str, Any]) -> list[TableOf]:
    """The report as tables (title, columns, rows); none of a plan."""
    if report.get("dry_run"):
        return []
    found = [_scores(report)]
    if report.get("agreement"):
        found.append(_agreement(report))
    return found


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """What is to be said beside the tables: counts, position bias, what went wrong."""
    if report.get("dry_run"):
        return _plan(report)
    lines = []
    if (gsb := report.get("gsb")) is not None:
        lines.append(
            f"position: the judge chose the caption shown first in {_share(gsb['chose_first'])} of its choices; both "
            f"orders agree on {_share(gsb['orders_agree'])} of the pairs"
        )
        one = gsb["one_order"]
        lines.append(
            f"one order alone would say {_number(one['candidate_first'])} (candidate first) or "
            f"{_number(one['reference_first'])} (reference first)"
        )
    if report["task"] == "sft":
        lines += [f"{name}: {'/'.join(_short(one) for one in told['scores'].values())} (difficulty/complexity/"
                  "relevance)" for name, told in report["sources"].items()]  # fmt: skip
    lines.append(_counts(report))
    if report["dropped"]:
        told = ", ".join(f"{name} {count:,}" for name, count in report["dropped"].items())
        lines.append(f"dropped {sum(report['dropped'].values()):,} of {report['samples']:,}: {told}")
    if (shared := report.get("shared_items")) is not None:
        lines.append(f"{shared:,} things were judged by both the model and people")
        if not shared:
            lines.append("none: people judged other samples, other captions or another task")
    lines.append(f"verdicts, answers and opinions: {report['out']}")
    return lines


def _plan(report: Mapping[str, Any]) -> list[str]:
    lines = [f"{name}: {count:,} samples" for name, count in report["sources"].items()]
    lines.append(
        f"{report['questions']:,} questions at most to {report['model']} ({report['rubric']}), {report['in_flight']} "
        "in flight"
    )
    return [*lines, "the rubric, on the first sample there is a question about:", *report["example"]]


def _scores(report: Mapping[str, Any]) -> TableOf:
    sources = report["sources"]
    told = {**sources, **({"all": report} if len(sources) > 1 else {})}
    title = f"{_TITLES[report['task']]}, by {report['model']} (means with 95% intervals)"
    if report["task"] == "gsb":
        rows = []
        for name, one in told.items():
            gsb = one["gsb"]
            counts = [f"{gsb[verdict]:,}" for verdict in ("good", "same", "bad")]
            rows.append([name, f"{one['states'].get('judged', 0):,}", *counts, _number(gsb["score"]),
                         _share(gsb["good_or_same"])])  # fmt: skip
        return title, ["source", "judged", "good", "same", "bad", "(G-B)/(G+S+B)", "good or same"], rows
    names = list(report["scores"])
    rows = [
        [name, f"{one['states'].get('judged', 0):,}", *(_number(one["scores"][column]) for column in names)]
        for name, one in told.items()
    ]
    return title, ["source", "judged", *names], rows


def _agreement(report: Mapping[str, Any]) -> TableOf:
    rows = [
        [
            one["between"],
            one["criterion"],
            f"{one['n']:,}",
            f"{one['items']:,}",
            *(_number(one[name]) if name in one else "-" for name in ("kappa", "quadratic_kappa", "spearman")),
            _share(one["equal"]) if "equal" in one else "-",
        ]
        for one in report["agreement"]
    ]
    columns = ["between", "criterion", "pairs", "samples", "kappa", "weighted kappa", "Spearman", "equal"]
    return "Agreement (95% intervals by sample; weights quadratic)", columns, rows


def _counts(report: Mapping[str, Any]) -> str:
    states = dict(report["states"])
    told = [f"{states.pop('judged', 0):,} judged"]
    names = {"unparsed": "answers that cannot be read", "failed": "given up", "not_drawn": "not drawn",
             "broken": "broken samples"}  # fmt: skip
    for state, count in states.items():
        if state == "not_asked":
            told += [f"{one:,} not asked ({why.replace('_', ' ')})" for why, one in report["not_asked"].items()]
        else:
            told.append(f"{count:,} {names[state]}")
    return f"{report['samples']:,} samples: {', '.join(told)}"


def _number(told: Mapping[str, Any]) -> str:
    """A value with its interval: "2.44 [2.40, 2.48]"."""
    if told["value"] is None:
        return "-"
    low_high = "" if told["ci95"] is None else f" [{told['ci95'][0]:.2f}, {told['ci95'][1]:.2f}]"
    return f"{told['value']:.2f}{low_high}"


def _share(told: Mapping[str, Any]) -> str:
    """A share in percent with its interval."""
    if told["value"] is None:
        return "-"
    low_high = "" if told["ci95"] is None else f" [{100 * told['ci95'][0]:.1f}, {100 * told['ci95'][1]:.1f}]"
    return f"{100 * told['value']:.1f}%{low_high}"


def _short(told: Mapping[str, Any]) -> str:
    return "-" if told["value"] is None else f"{told['value']:.2f}"
