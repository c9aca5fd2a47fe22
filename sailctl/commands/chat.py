"""`sailctl chat`: ask a checkpoint about pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import DeviceOpt, JsonOpt, MeasuredCheckpointOpt

ImageOpt = Annotated[
    list[Path] | None,
    typer.Option("--image", help="A picture to show before the prompt; repeatable.", metavar="FILE"),
]
PromptOpt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        help="The question, with <image> where a picture goes, or without for pictures first; by default: describe.",
        metavar="TEXT",
    ),
]
MaxNewTokensOpt = Annotated[int, typer.Option("--max-new-tokens", help="The longest answer, in tokens.")]
TemperatureOpt = Annotated[float, typer.Option("--temperature", help="0 is greedy; above, answers are sampled.")]


def chat(
    checkpoint: MeasuredCheckpointOpt = None,
    image: ImageOpt = None,
    prompt: PromptOpt = None,
    max_new_tokens: MaxNewTokensOpt = 256,
    temperature: TemperatureOpt = 0.0,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Ask a model about pictures, or about nothing but the text.

    Examples

    $ sailctl chat --image photo.jpg

    $ sailctl chat --image chart.png --prompt "Which bar is highest?" --json
    """
    from sailctl.commands import output
    from sailctl.core.engines.chat import as_json, ask

    completion = ask(
        checkpoint,
        image or [],
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        device=device,
        say=output.Reporter(json=json).info,
    )
    if json:
        output.emit_json(as_json(completion))
    else:
        output.emit_text(completion.text)
