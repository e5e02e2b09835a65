"""Write the pages of the docs site: `python -m tests.docs_site FOLDER`; `make docs` builds the site of them.

Pages link to files of the repository that are not pages, and the site has no repository to point to. So the files come
along below files/, and links to folders become plain text. The changelog and CONTRIBUTING.md become pages.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MORE_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing/index.md", "README.md": "index.md"}
_LINK = re.compile(r"(?P<text>\[[^\]\[]*\])\((?P<target>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")


def write_pages(folder: Path) -> None:
    """Write all pages, and what they link to, into a new folder.

    Raises:
        SystemExit: a page links to a file that does not exist.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    sources = {path: path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))}
    sources |= {ROOT / name: Path(page) for name, page in MORE_PAGES.items() if not (DOCS / page).exists()}
    for source, page in sources.items():
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text(_with_links(source.read_text(), source, page, folder))


def _with_links(text: str, source: Path, page: Path, folder: Path) -> str:
    """A page's text with links that are right where the page is on the site."""

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found["target"]).resolve()
        if not target.exists():
            raise SystemExit(f"{source.relative_to(ROOT)}: link to {found['target']}, which does not exist")
        place = _place(target)
        if place is None:
            return found["text"][1:-1]
        if place.parts[0] == "files" and not (folder / place).exists():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, folder / place)
        up = "../" * (len(page.parts) - 1)
        return f"{found['text']}({up}{place.as_posix()}{found['anchor'] or ''})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def _place(target: Path) -> Path | None:
    """Where a file of the repository is on the site; None for a folder, which has no place."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS)
    name = target.relative_to(ROOT)
    return None if target.is_dir() else Path(MORE_PAGES.get(name.as_posix(), f"files/{name.as_posix()}"))


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
