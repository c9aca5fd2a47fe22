"""`sailctl synth`: make pictures with captions, text, charts and questions, to try any recipe with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import DryRunOpt, JsonOpt, OutOpt

DEFAULT_TASKS = "caption,ocr_word,ocr_text,chart,closed_vqa,open_vqa,document_vqa,math,text_qa"


def synth(
    out: OutOpt = None,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks", help="Tasks, comma-separated, each with an optional weight.", metavar="NAME[=WEIGHT],…"
        ),
    ] = DEFAULT_TASKS,
    levels: Annotated[
        str, typer.Option("--levels", help="Levels of difficulty, from 1 to 3.", metavar="N,…")
    ] = "1,2,3",
    samples: Annotated[int, typer.Option("--samples", help="Number of samples.", min=1)] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Another seed gives other samples.")] = 0,
    split: Annotated[
        str, typer.Option("--split", help="Held-out words and texts occur in heldout only.", metavar="train|heldout")
    ] = "train",
    documents: Annotated[
        float,
        typer.Option(
            "--documents", help="Share of train questions that follow a description of their picture.", min=0, max=1
        ),
    ] = 0.5,
    size: Annotated[int, typer.Option("--size", help="Side of the square pictures, in pixels.")] = 112,
    font: Annotated[
        Path | None, typer.Option("--font", help="Font file instead of Pillow's embedded one.", metavar="FILE")
    ] = None,
    lang: Annotated[
        str, typer.Option("--lang", help="zh: Chinese captions and words; needs --font.", metavar="en|zh")
    ] = "en",
    format_: Annotated[
        str,
        typer.Option("--format", help="Layout of the samples.", metavar="tar|llava-json|parquet|img2dataset"),
    ] = "tar",
    workers: Annotated[int, typer.Option("--workers", help="Processes; the bytes do not depend on it.", min=1)] = 1,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", help="Write a contact sheet of the first samples here.", metavar="PNG"),
    ] = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Make training or held-out data: the same options give the same bytes, and a killed run goes on where it was.

    Examples

    $ sailctl synth --out data/demo --samples 5000 --preview demo.png

    $ sailctl synth --out data/words --tasks caption,ocr_word=3 --levels 2,3
    """
    from sailctl.commands import output
    from sailctl.core.data.synth.request import SynthRequest

    request = SynthRequest(
        tasks=tasks,
        levels=levels,
        samples=samples,
        seed=seed,
        split=split,
        documents=documents,
        size=size,
        font=font,
        lang=lang,
        layout=format_,
    )
    with output.Reporter(json=json) as reporter:
        reporter.start("synth", samples)
        summary = request.run(out, preview=preview, workers=workers, dry_run=dry_run, progress=reporter.update)
    if json:
        output.emit_json(summary)
        return
    output.emit_table("samples", ["task", "samples"], [[task, f"{n:,}"] for task, n in summary["counts"].items()])
    if dry_run:
        output.emit_text("dry run: nothing was written")
        return
    if preview is not None:
        output.emit_text(f"contact sheet: {preview}")
    if out is not None:
        state = "already complete" if summary["complete_before"] else "written"
        output.emit_text(f"{summary['samples']:,} samples {state} in {out}")
        output.next_command(f"sailctl pretrain --stage alignment --data {summary['source']}")
