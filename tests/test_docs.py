"""All pages of the docs: their commands parse, their configs are accepted, their links lead somewhere.

README.md has further tests of its own, tests/test_readme.py; the generated pages have tests/test_docs_reference.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from labeler.cli import _parse
from labeler.config import Config, make_config
from labeler.labels import extensions
from labeler.labels.detections_column import DETECTIONS
from labeler.labels.records import LABELS, STATUSES
from labeler.runs import layout
from labeler.training.config import TrainingJob, make_training_job
from tests import docs_site

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / ".github").glob("*.md")])
RUN_FOLDER = (DOCS / "reference" / "run-folder.md").read_text()
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_FILLER = {"input": "in", "output": "out", "vocabulary": ["cat"], "model": {"name": "m"}}
_TRAINING = {"output": "out", "model": {"name": "m"}, "data": {"run": "r"}, "train": {"steps": 1}}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, languages: tuple[str, ...]) -> list[str]:
    return [body for _, language, body in _FENCE.findall(page.read_text()) if language in languages]


def commands(page: Path) -> Iterator[str]:
    """Each `labeler ...` of a shell block, and those in backquotes that have arguments; FORMAT is any format."""
    for block in blocks(page, ("", "bash", "sh")):
        joined = block.replace("\\\n", " ")
        yield from (line.strip() for line in joined.splitlines() if line.strip().startswith("labeler "))
    yield from re.findall(r"`(labeler [a-z-]+ [^`\n]*(?:RUN|[=/.])[^`\n]*)`", page.read_text())


def all_commands() -> list[tuple[str, str]]:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of commands as they were
    return sorted({(name_of(page), command.split("  #")[0].strip()) for page in pages for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), all_commands())
def test_every_command_parses(page: str, command: str) -> None:
    _parse(shlex.split(command.replace("FORMAT", "coco"), comments=True)[1:])


def configs() -> list[tuple[str, dict[str, Any]]]:
    """YAML blocks whose keys are those of a config; others are vocabularies and thresholds."""
    found = []
    for page in PAGES:
        for block in blocks(page, ("yaml",)):
            values = yaml.safe_load(block)
            if {*values} <= {*Config.model_fields, *TrainingJob.model_fields}:
                found.append((name_of(page), values))
    return found


@pytest.mark.parametrize(("page", "values"), configs())
def test_every_config_is_accepted(page: str, values: dict[str, Any]) -> None:
    if {*values} <= {*Config.model_fields}:
        given = {**_FILLER, **values}
        if isinstance(given["model"], dict):
            given["model"] = {"name": "m", **given["model"]}
        if isinstance(given["input"], dict):
            given["input"] = {"uri": "in", **given["input"]}
        make_config(given)
    else:
        make_training_job({**_TRAINING, **values})


def test_configs_and_commands_are_found() -> None:
    assert len(configs()) > 5
    assert len(all_commands()) > 50


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as forges make them."""
    text = _FENCE.sub("", page.read_text())
    found: dict[str, int] = {}
    names = []
    for heading in re.findall(r"^#+ +(.*?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", ""))
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.append(f"{slug}-{count}" if count else slug)
    return frozenset(names)


def broken_links(page: Path) -> list[str]:
    text = _FENCE.sub("", page.read_text())
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    assert not broken_links(page)


def test_broken_links_and_anchors_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#another) [c](missing.md) [d](page.md#nowhere) [e](https://x)\n")
    assert broken_links(page) == ["#another", "missing.md", "page.md#nowhere"]


def test_every_page_is_in_the_navigation_of_the_site(tmp_path: Path) -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs_site.write_pages(tmp_path / "pages")
    written = {path.relative_to(tmp_path / "pages").as_posix() for path in (tmp_path / "pages").rglob("*.md")}
    assert sorted(listed) == sorted(name for name in written if not name.startswith("files/"))


def test_a_page_of_the_site_brings_along_what_it_links_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs" / "guides").mkdir(parents=True)
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "CHANGELOG.md").write_text("[the guide](docs/guides/a.md#there)\n")
    for name in ("CONTRIBUTING.md", "README.md"):
        shutil.copyfile(tmp_path / "CHANGELOG.md", tmp_path / name)
    guide = tmp_path / "docs" / "guides" / "a.md"
    guide.write_text("[code](../../code.py) [folder](../../folder) [news](../../CHANGELOG.md)\n```\n[x](y)\n```\n")
    monkeypatch.setattr(docs_site, "ROOT", tmp_path)
    monkeypatch.setattr(docs_site, "DOCS", tmp_path / "docs")
    docs_site.write_pages(tmp_path / "out")
    page = (tmp_path / "out" / "guides" / "a.md").read_text()
    assert page == "[code](../files/code.py) folder [news](../changelog.md)\n```\n[x](y)\n```\n"
    assert (tmp_path / "out" / "files" / "code.py").read_text() == "x = 1\n"
    assert (tmp_path / "out" / "contributing" / "index.md").read_text() == "[the guide](../guides/a.md#there)\n"
    guide.write_text("[gone](../../gone.py)\n")
    with pytest.raises(SystemExit, match=r"docs/guides/a\.md: link to \.\./\.\./gone\.py"):
        docs_site.write_pages(tmp_path / "out")


def first_column(section: str) -> list[str]:
    """What is in backquotes in the first cells of the tables of a section."""
    text = RUN_FOLDER.partition(f"\n{section}\n")[2] if section else RUN_FOLDER
    text = re.split(r"\n## ", text)[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_page_of_the_run_folder_has_every_file() -> None:
    fixed = {value for key, value in vars(layout).items() if key.isupper() and isinstance(value, str)}
    shown = {name.split("/")[0] for name in first_column("")}
    assert shown == {value.split("/")[0] for value in fixed}


def test_the_page_of_the_run_folder_has_every_column_and_its_type() -> None:
    columns = RUN_FOLDER.partition("\n## Columns\n")[2].partition("\n## Statuses\n")[0]
    rows = {
        name: line.split("|")[2]
        for line in columns.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    names = {"string": "string", "list": "list of structs", "float": "float32", "struct": "struct"}
    for field in [*LABELS, *DETECTIONS.value_type]:
        kind = next((word for start, word in names.items() if str(field.type).startswith(start)), str(field.type))
        assert field.name in rows, field.name
        assert kind in rows[field.name], f"{field.name} is {field.type}"
    optional = first_column("## Optional columns")
    assert optional == list(extensions.NAMES)
    assert {name for name in optional if rows[name].strip() == "a row"} == {*extensions.OF_IMAGES}


def test_the_page_of_the_run_folder_has_every_status() -> None:
    assert first_column("## Statuses")[1:] == list(STATUSES)
