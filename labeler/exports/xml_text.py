"""Text in XML: escaped, and without the characters that no XML file may hold."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

# XML 1.0 admits tab, line feed and carriage return of the control characters, no surrogates, and not U+FFFE and U+FFFF.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def attribute(text: str) -> str:
    """Return the text as the value of an attribute, with its quotes."""
    return quoteattr(_NOT_XML.sub("\ufffd", text))


def content(text: str) -> str:
    """Return the text as the content of an element."""
    return escape(_NOT_XML.sub("\ufffd", text))
