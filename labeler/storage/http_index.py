"""Links of a web server's index page (Apache's, nginx's, Python's): the listing of a folder."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin


def links_below(folder: str, page: str) -> list[str]:
    """Return the addresses that a page links to below its own folder, in their order; subfolders end with a slash.

    Args:
        folder: the page's address, with a slash at its end.
    """
    parser = _Links()
    parser.feed(page)
    found = []
    for link in parser.links:
        try:
            address = urldefrag(urljoin(folder, link.strip())).url
        except ValueError:  # not an address
            continue
        if address.startswith(folder) and "?" not in address and address != folder:  # "?C=N" sorts the page
            found.append(address)
    return list(dict.fromkeys(found))


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
