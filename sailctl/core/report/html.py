"""What all pages made here are: one file from a template, its styles and its one script inside it.

Whatever a template prints is escaped, but for what is marked as markup made in this package. A content security policy
lets that script run and nothing else, and loads nothing but what `images` allows.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    template: str,
    *,
    styles: Sequence[str],
    script: str,
    images: str,
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """A page as text from `template`, with the styles and the script of these names.

    `images` is the policy's source list of pictures ("data:"). The template has `style`, `script` and `policy` besides
    `values`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= filters or {}
    code = _read(script)
    allowed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        style=Markup("".join(map(_read, styles))), script=Markup(code), policy=Markup(policy), **values
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
