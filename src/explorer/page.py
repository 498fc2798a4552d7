"""Writing the pages: HTML, style, script and content in one file that needs nothing else.

The folder ``web`` has the parts. A page is the shared head and a template, with the shared style and its own.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from ..files import utf8

FOLDER = Path(__file__).parent / "web"
SCRIPTS = (
    "method",
    "image",
    "files",
    "drawing",
    "state",
    "address",
    "controls",
    "picture",
    "spot",
    "grid",
    "tokens",
    "compare",
    "events",
    "server",
    "start",
)
# Nothing may be loaded or sent: the page contains everything.
SEALED = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
)


def page(content: dict[str, Any], command: str | None = None, policy: str = SEALED) -> bytes:
    """The explorer as an HTML file.

    Args:
        content: from :func:`src.explorer.content.page_content`; or ``{"name": title, "server": ...}`` of a page with a
            server, see :mod:`src.explorer.server`.
        command: the command line that made the page, if the page names it.
        policy: Content-Security-Policy of the page.
    """
    return fill(
        "page",
        title=content["name"],
        policy=policy,
        command=command,
        script="\n".join(_read(f"{name}.js") for name in SCRIPTS),
        content=json_in_html(content),
        overlay=_overlay(content),
    )


def _overlay(content: dict[str, Any]) -> str:
    """What the page shows without JavaScript."""
    overlay, name = content.get("overlay"), html.escape(content["name"])
    return f'<h2>{name}</h2><img src="{overlay}" alt="labels of {name}">' if overlay else ""


def fill(name: str, title: str, command: str | None = None, policy: str = SEALED, **parts: str) -> bytes:
    """A page in UTF-8: the template and the style ``name`` with every ``{{part}}`` replaced by the part of that name.

    Args:
        name: ``page``, ``index`` or ``infoscore``.
        title: text, which is escaped.
        command: the command line that made the page, for its foot.
        policy: Content-Security-Policy of the page.
        parts: HTML.
    """
    parts["title"] = html.escape(title)
    parts["head"] = _filled(
        "head", title=parts["title"], policy=html.escape(policy), style=_read("base.css") + _read(f"{name}.css")
    )
    parts["foot"] = _filled("foot", command=_made_by(command) if command else "")
    return utf8(_filled(name, **parts))


def _made_by(command: str) -> str:
    """The command as a line of HTML; a click on it selects all of it."""
    button = '<button id="copy" type="button" hidden>Copy</button>'
    return f'<p>Made by <code id="command">{html.escape(command)}</code> {button}</p>'


def _filled(template: str, **parts: str) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read(f"{template}.html"))


def json_in_html(values: Any) -> str:
    """JSON for a script element: no text in it can end the element."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
