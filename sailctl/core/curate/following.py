"""The command that usually comes next after a pass, whole, to be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from sailctl.core.curate.parts import Data


def mix_command(
    data: Data, paths: Sequence[str], verdicts: Sequence[str], out: Path, image_root: str | None, captions: str | None
) -> str:
    """`sailctl curate mix` over what a pass went over, without what it and the passes before it drop."""
    words = ["sailctl", "curate", "mix"]
    for option, values in (("--data", paths), ("--verdicts", [*verdicts, str(out)])):
        words += [word for value in values for word in (option, value)]
    for option, given in (("--image-root", image_root), ("--captions", captions)):
        if given is not None:
            one_source = len(data.configs) == 1
            words += [w for one in data.configs for w in (option, given if one_source else f"{one.name}={given}")]
    return shlex.join([*words, "--out", "mixture.yaml"])
