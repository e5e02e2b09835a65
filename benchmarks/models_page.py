"""Write the table of models into docs/guides/models.md: `python -m benchmarks.models_page`."""

from __future__ import annotations

from pathlib import Path

from labeler.catalog.listing import listed, markdown, replace_section

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "models.md"


def main() -> None:
    """Replace the generated section of the page."""
    PAGE.write_text(replace_section(PAGE.read_text(), markdown(listed())))


if __name__ == "__main__":
    main()
