"""The architecture, checked: imports go downward only, heavy libraries are imported in few packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "labeler"

# Lower layers first; a module may import from its own layer and from those above it in this list.
LAYERS = [
    {
        "errors",
        "digests",
        "plain_json",
        "json_stream",
        "plain_yaml",
        "parquet_bytes",
        "output",
        "signature",
        "owners",
        "file_names",
        "byte_budget",
        "ahead",
        "machine",
        "processes",
    },
    {"storage"},
    {"vocabulary", "images", "terminal", "config_values"},
    {"labels", "config"},
    {"prompts"},
    {"shards", "checkpoints", "catalog"},
    {"runs", "detectors", "segmenters", "rescorers"},
    {"labeling", "truth"},
    {"exports", "evaluation", "trial", "imports"},
    {"calibration", "review", "corrections"},
    {"pipeline"},
    {"training", "reproduction", "submission"},
    {"commands"},
    {"api", "cli", "__main__"},
]
RAY_ROOMS = {"pipeline", "training", "submission", "api"}
TORCH_ROOMS = {"detectors", "segmenters", "rescorers", "training", "api"}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(room: str) -> int:
    return next(level for level, rooms in enumerate(LAYERS) if room in rooms)


def imported(path: Path, *, at_import: bool) -> set[str]:
    """Dotted names imported by a module; with `at_import` only those outside functions."""
    tree = ast.parse(path.read_text())
    inside = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
        if inner is not outer
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if at_import and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_only(path: Path) -> None:
    level = layer_of(room_of(path))
    for name in imported(path, at_import=False):
        parts = name.split(".")
        if parts[0] == "labeler" and len(parts) > 1 and parts[1] != "__version__":
            assert layer_of(parts[1]) <= level, f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_live_in_their_rooms(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path, at_import=False)}
    if room_of(path) not in RAY_ROOMS:
        assert "ray" not in roots
    if room_of(path) not in TORCH_ROOMS:
        assert not roots & {"torch", "transformers"}


def test_importing_labeler_loads_neither_ray_nor_torch() -> None:
    program = (
        "import labeler, labeler.cli, labeler.labeling.recipe, sys; "
        "print(sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_help_and_mistakes_load_nothing_that_reads_data() -> None:
    program = (
        "import labeler.cli, sys\nfor words in (['--help'], ['lable'], ['label', '--help'], ['export', 'RUN']):\n"
        "    try: labeler.cli.main(words)\n    except SystemExit: pass\n"
        "heavy = {'numpy', 'pyarrow', 'PIL', 'pydantic', 'yaml', 'boto3', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stderr.splitlines()[-1] == "[]"


def test_every_job_is_thin() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, f"{path.name} does work of its own: move it into labeler/"
