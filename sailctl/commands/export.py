"""`sailctl export`: write a checkpoint in a layout that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import JsonOpt

ExportedCheckpointOpt = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        help="A run, a checkpoint, or the local folder of a foreign model; hub names are not fetched.",
        metavar="PATH",
    ),
]
FormatOpt = Annotated[
    str,
    typer.Option(
        "--format",
        help="transformers (stock library, vLLM, LMDeploy), internvl (original layout) or sailctl (our own).",
        metavar="transformers|internvl|sailctl",
    ),
]
NewFolderOpt = Annotated[Path, typer.Option("--out", help="The new folder to write.", metavar="PATH")]


def export(checkpoint: ExportedCheckpointOpt, out: NewFolderOpt, format: FormatOpt, json: JsonOpt = False) -> None:
    """Write a checkpoint in another layout, bit for bit, complete or not at all.

    Examples

    $ sailctl export --checkpoint RUN --format transformers --out exported

    $ sailctl export --checkpoint models/InternVL --format sailctl --out ours
    """
    from sailctl.commands import output
    from sailctl.core.model.export import export as write

    written = write(checkpoint, format, out)
    if json:
        output.emit_json({"out": str(written), "format": format})
    else:
        output.emit_text(f"{written}: complete, in {format} layout")
        output.next_command(f"sailctl chat --checkpoint {written} --image FILE")
