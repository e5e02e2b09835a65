"""The class names of YOLO's data.yaml, as entries of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_data_yaml(document: Mapping[Any, Any]) -> bool:
    """Return whether a document is a data.yaml: it has `names`, and no `categories` as vocabularies do."""
    return "names" in document and "categories" not in document


def items_of(document: Mapping[Any, Any], problems: list[str]) -> list[dict[str, Any]]:
    """Return {id, name} of each class, in the order of their indices; what is wrong is added to `problems`.

    Ids are the class indices, from 0, or `category_ids`, which exports of labeler write beside the names.
    """
    names = document["names"]
    if isinstance(names, Mapping):
        indices = [key for key in names if type(key) is int]
        if sorted(indices) != list(range(len(names))):
            problems.append(f"names: keys must be the class indices 0 to {len(names) - 1}")
            return []
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
        problems.append("names: must be a list of class names, or a mapping from class index to name")
        return []
    count = document.get("nc", len(names))
    if count != len(names):
        problems.append(f"nc: says {count!r}, and there are {len(names)} names")
    ids = document.get("category_ids")
    known = isinstance(ids, list) and len(ids) == len(names)
    return [{"id": ids[place] if known and ids else place, "name": name} for place, name in enumerate(names)]
