"""How many samples each group gives: caps, quotas, even and natural shares. Pure numbers; sums are exact.

A group is what samples are balanced over: a source, a shard, a language, a cluster, a value of any column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from sailctl.core.errors import UsageError

UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parse_count(text: str, option: str = "--samples") -> int:
    """A number of samples such as 5000, 50k, 1.5M. Raises UsageError naming the option."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", text.strip().replace(",", "").replace("_", ""))
    number = Fraction(found[1]) * UNITS[found[2]] if found else Fraction(0)
    if number < 1 or number.denominator != 1:
        raise UsageError(f"{option} {text}: should be a whole number of samples from 1 on, such as 5000, 50k or 2M")
    return int(number)


def parse_quotas(texts: Sequence[str]) -> dict[str, Fraction]:
    """`NAME=SHARE` options, shares as 0.3, 30% or 1/3. Raises UsageError where they are none or exceed one."""
    quotas: dict[str, Fraction] = {}
    for text in texts:
        name, equals, share = text.rpartition("=")
        try:
            number = Fraction(share[:-1]) / 100 if share.endswith("%") else Fraction(share)
        except (ValueError, ZeroDivisionError):
            number = Fraction(-1)
        if not equals or not name or not 0 <= number <= 1:
            raise UsageError(f"--quota {text}: should be NAME=SHARE, the share from 0 to 1, such as ocr=0.3 or ocr=30%")
        if name in quotas:
            raise UsageError(f"--quota {text}: {name} has a quota already")
        quotas[name] = number
    if sum(quotas.values()) > 1:
        raise UsageError(f"--quota: the shares add up to {float(sum(quotas.values())):g}; at most 1 can be given away")
    return quotas


def by_largest_remainder(total: int, weights: Mapping[str, int | Fraction]) -> dict[str, int]:
    """Whole numbers in proportion to weights that add up to `total`; ties go by name.

    Hamilton's method: floors first, then one each to the largest remainders.
    """
    whole = sum(weights.values())
    exact = {name: Fraction(total) * weight / whole if whole else Fraction(0) for name, weight in weights.items()}
    given = {name: int(share) for name, share in exact.items()}
    left = total - sum(given.values()) if whole else 0
    for name in sorted(exact, key=lambda one: (given[one] - exact[one], one))[:left]:
        given[name] += 1
    return given


def evenly(total: int, counts: Mapping[str, int]) -> dict[str, int]:
    """As equal as the counts allow: min(count, t) of every group, t such that they add up to `total`.

    That is the balancing of MetaCLIP (Xu et al., "Demystifying CLIP Data", 2024), where groups of more than t samples
    keep each with probability t / count, with numbers in place of expectations. Where no t fits, some of the groups
    above it, by name, give one more. `total` may not exceed the sum of the counts.
    """
    t, left, rising = 0, total, sorted(counts.values())
    for at, count in enumerate(rising):
        groups = len(rising) - at
        if (count - t) * groups > left:
            t, left = t + left // groups, left % groups
            break
        t, left = count, left - (count - t) * groups
    given = {name: min(count, t) for name, count in counts.items()}
    for name in sorted(name for name, count in counts.items() if count > t)[:left]:
        given[name] += 1
    return given


def naturally(total: int, counts: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, int]:
    """In proportion to counts, no group above its limit; what a limit cuts off goes to the others in proportion.

    `total` may not exceed the sum of the limits.
    """
    given: dict[str, int] = {}
    open_groups = dict(counts)
    while True:
        shares = by_largest_remainder(total - sum(given.values()), open_groups)
        full = {name: limits[name] for name, share in shares.items() if share >= limits[name]}
        if not full:
            return {**given, **shares}
        given.update(full)
        for name in full:
            del open_groups[name]


def allot(
    total: int | None, counts: Mapping[str, int], cap: int | None, quotas: Mapping[str, Fraction], *, natural: bool
) -> dict[str, int]:
    """How many of its `counts` samples each group gives.

    No group gives more than `cap`. Groups with a quota give that share of `total`; the others give the rest, evenly or
    in natural proportion. Without a total every group gives what the cap allows. Raises UsageError where there are
    fewer than asked for, saying how many.
    """
    limits = {name: count if cap is None else min(count, cap) for name, count in counts.items()}
    if total is None:
        return limits
    if unknown := [name for name in quotas if name not in counts]:
        known = ", ".join(sorted(counts)[:10]) + (", …" if len(counts) > 10 else "")
        raise UsageError(f"--quota {unknown[0]}: there is no such group; groups: {known}")
    rest = Fraction(1) - sum(quotas.values())
    shares = by_largest_remainder(total, {**dict(quotas), "": rest} if rest else quotas) if quotas else {"": total}
    of_cap = "" if cap is None else f" under --cap {cap}"
    for name in quotas:
        if shares[name] > limits[name]:
            raise UsageError(
                f"--quota {name}: {shares[name]:,} samples are asked for, it has {limits[name]:,}{of_cap}; "
                "lower its share or --samples"
            )
    others = {name: limit for name, limit in limits.items() if name not in quotas}
    asked, there = shares.get("", 0), sum(others.values())
    if asked > there:
        what = "samples of groups without a quota" if quotas else "samples"
        raise UsageError(f"--samples: {asked:,} {what} are asked for, there are {there:,}{of_cap}; ask for fewer")
    rest_counts = {name: counts[name] for name in others}
    given = naturally(asked, rest_counts, others) if natural else evenly(asked, others)
    return {name: given[name] if name in given else shares[name] for name in counts}
