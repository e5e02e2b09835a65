"""Read X-AnyLabeling's label files with labelme's own code: `python tests/tools/open_labelme.py FOLDER`.

labelme is installed without what only its window needs, so its `__init__` module is passed by.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any


def label_file_module() -> Any:
    found = importlib.util.find_spec("labelme")
    assert found is not None
    bare = types.ModuleType("labelme")
    bare.__path__ = list(found.submodule_search_locations or ())
    bare.__version__ = importlib.metadata.version("labelme")  # type: ignore[attr-defined]
    sys.modules["labelme"] = bare
    importlib.import_module("labelme.utils")  # first: the two import each other
    return importlib.import_module("labelme._label_file")


def open_export(out: Path, labelme: Any) -> None:
    """Names, corners, ids and scores are read; the image beside has the size that the file says."""
    expected = json.loads((out.parent / "expected.json").read_text())
    files = sorted(out.glob("images/**/*.json"))
    boxes = 0
    for path in files:
        written = json.loads(path.read_text())
        read = labelme.read_label_file(str(path))
        for name in ("label", "points", "description", "shape_type"):
            assert [shape[name] for shape in read.shapes] == [shape[name] for shape in written["shapes"]]
        assert [s["other_data"]["score"] for s in read.shapes] == [s["score"] for s in written["shapes"]]
        assert read.other_data["labeler_row"] == written["labeler_row"]
        boxes += len(read.shapes)
    assert (len(files), boxes) == (expected["images"], expected["boxes"])


if __name__ == "__main__":
    reader = label_file_module()
    for export in sorted(Path(sys.argv[1]).glob("*/x-anylabeling")):
        open_export(export, reader)
        print(f"labelme {importlib.metadata.version('labelme')} opens {export.parent.name}/{export.name}")
