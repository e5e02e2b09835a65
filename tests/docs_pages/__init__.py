"""The generated pages of docs/reference: `make reference` writes them, and tests/test_docs_reference.py compares them.

They are committed, so that they can be read in the repository, and `make docs` needs none of labeler's packages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.docs_pages import command_line, configuration, python_api

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration.labeling_page,
    "training-configuration.md": configuration.training_page,
    "config.schema.json": configuration.labeling_schema,
    "training.schema.json": configuration.training_schema,
    "cli.md": command_line.page,
    "python-api.md": python_api.page,
}
