"""Writing the attention explorer: HTML, style, script and content in one file that needs nothing else."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from ..files import utf8

FOLDER = Path(__file__).parent
# Nothing may be loaded or sent: what the page does not carry, it does not have.
SEALED = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
)


def page(content: dict[str, Any], policy: str = SEALED) -> bytes:
    """The explorer as an HTML file.

    Args:
        content: from :func:`src.explorer.content.page_content`; or of a page that asks its server, see
            :mod:`src.explorer.server`: ``{"name": title, "server": ...}``.
        policy: Content-Security-Policy of the page.
    """
    return fill(
        "page.html",
        title=html.escape(content["name"]),
        policy=html.escape(policy),
        style=style("page.css"),
        script=_read("page.js"),
        content=json_in_html(content),
        overlay=_overlay(content),
    )


def _overlay(content: dict[str, Any]) -> str:
    """What the page shows without JavaScript."""
    overlay, name = content.get("overlay"), html.escape(content["name"])
    return f'<h2>{name}</h2><img src="{overlay}" alt="labels of {name}">' if overlay else ""


def fill(template: str, **parts: str) -> bytes:
    """A file of this folder with every ``{{name}}`` replaced by the part of that name, UTF-8."""
    return utf8(re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read(template)))


def style(name: str) -> str:
    """The style sheet ``name`` of this folder after the one that all pages share."""
    return _read("base.css") + _read(name)


def json_in_html(values: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
