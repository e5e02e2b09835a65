"""Named groups of categories, for an AP of each: seen and held out, rare and frequent, your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labeler import plain_yaml, storage
from labeler.errors import Refused, did_you_mean
from labeler.file_names import NameIndex
from labeler.truth.ground_truth import GroundTruth

_FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
GroupsSpec = str | Path | Mapping[str, Sequence[str | int]]
Groups = dict[str, list[int]]  # name -> positions of the categories


def read_groups(spec: GroupsSpec, truth: GroundTruth) -> Groups:
    """Return positions by group name, from a YAML (or JSON) file or a mapping: `seen: [red circle, 7, ...]`, names or
    ids.

    Raises:
        Refused: not readable, not such a mapping, or a category the ground truth does not have; all at once.
    """
    shown = storage.redact(str(spec)) if isinstance(spec, str | Path) else "mapping"
    values = _load(str(spec), shown) if isinstance(spec, str | Path) else spec
    if not isinstance(values, Mapping) or not values or not all(isinstance(v, list | tuple) for v in values.values()):
        raise Refused(f"groups {shown} must be a mapping of group names to lists of categories")
    names = [category.name for category in truth.categories]
    by_name = NameIndex(names)
    by_id = {category.id: position for position, category in enumerate(truth.categories)}
    problems = []
    groups: Groups = {}
    for group, members in values.items():
        groups[str(group)] = []
        for member in members:
            by_its_id = type(member) is int
            places = [by_id[member]] if by_its_id and member in by_id else []
            places = places if by_its_id else by_name.find(str(member))
            if not places:
                problems.append(
                    f"{group}: the annotations have no category {member!r}{did_you_mean(str(member), names)}"
                )
            elif len(places) > 1 and str(member) not in by_name:
                spelled = " or ".join(ascii(names[place]) for place in places)
                problems.append(f"{group}: {member!a} could be {spelled}; spell it as the annotations do")
            else:
                groups[str(group)].append(places[-1])
    if problems:
        raise Refused(f"groups {shown}: {len(problems)} unknown categories", problems)
    return {group: sorted(set(members)) for group, members in groups.items()}


def _load(spec: str, shown: str) -> Any:
    try:
        return plain_yaml.parse(storage.read_bytes(spec).decode())[0]
    except (plain_yaml.NotPlainYaml, UnicodeDecodeError) as error:
        raise Refused(f"groups {shown} are not valid YAML: {error}") from None


def frequency_groups(truth: GroundTruth) -> Groups:
    """LVIS's rare, common and frequent categories; empty for a data set without frequencies."""
    groups: Groups = {}
    for letter, name in _FREQUENCIES.items():
        members = [place for place, category in enumerate(truth.categories) if category.frequency == letter]
        if members:
            groups[name] = members
    return groups
