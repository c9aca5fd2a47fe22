"""What all pages made here are: one file from a template, its styles and its one script inside it.

Whatever a template prints is escaped, but for what is marked as markup made in this package. A content security policy
lets that script run and nothing else, and loads nothing but what `images` allows. `html.css` is the style of all pages:
their colours, light and dark.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_COMMON = Path(__file__).with_suffix(".css")


def render_page(
    template: Path,
    *,
    styles: Sequence[str],
    images: str,
    script: str | None = None,
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """A page as text from `template`, with the styles and the script of these names in its folder.

    `images` is the policy's source list of pictures ("data:"). The template has `style`, `script` and `policy` besides
    `values`. Without a script none may run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= filters or {}
    code = "" if script is None else _read(template.with_name(script))
    allowed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; "
        f"script-src '{'none' if script is None else f'sha256-{allowed}'}'; base-uri 'none'; form-action 'none'"
    )
    sheets = [_COMMON, *(template.with_name(name) for name in styles)]
    return environment.get_template(template.name).render(
        style=Markup("".join(map(_read, sheets))), script=Markup(code), policy=Markup(policy), **values
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
