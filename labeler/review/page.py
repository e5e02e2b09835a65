"""One self-contained HTML file: a template with its style, script and data inside, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

from labeler import signature

_PLACE = re.compile(r"\{\{([A-Z]+)\}\}")


def dump(value: Any) -> str:
    """JSON that may stand inside <script>: pure ASCII, and no character that HTML gives a meaning."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, so that any name survives
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(*, template: str, scripts: tuple[str, ...], title: str, data: str) -> bytes:
    """The page.

    Its content security policy lets only the page's own style and script run, by their digests, and nothing be loaded:
    a hostile name could not do harm even if it were taken for markup.

    Args:
        template: file name in this room; so are `scripts`.
        data: from `dump`.
    """
    style = _read("page.css")
    script = "\n".join(["'use strict';", *map(_read, scripts)])
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"GENERATOR": signature.HTML_TAG, "POLICY": policy, "TITLE": html.escape(title)}
    parts |= {"STYLE": style, "DATA": data, "SCRIPT": script}
    text = _PLACE.sub(lambda match: parts[match[1]], _read(template))  # once: what is put in is not looked at again
    return text.encode()


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
