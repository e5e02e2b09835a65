"""Find and check a detector's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from labeler.checkpoints.contents import (
    Checkpoint,
    digest_of,
    digest_of_folder,
    image_processor_config,
    model_config,
)
from labeler.checkpoints.located import Located, locate
from labeler.errors import Refused
from labeler.prompts import Family, ImageRule, ModuleFamily, UserModule, find_family
from labeler.storage import expand_home


@dataclass(frozen=True)
class DetectorCheckpoint(Checkpoint):
    """A detector's checkpoint that passed the checks of `resolve`.

    Attributes:
        family: the kind of detector it is of.
        rule: how it wants its images, from the image processor's settings.
        module: that the config names, and that the family is of; None: the checkpoint says its family.
    """

    family: Family
    rule: ImageRule
    module: UserModule | None = None


def resolve(
    name: str | Path, *, revision: str | None = None, weights: bool = True, module: UserModule | None = None
) -> DetectorCheckpoint:
    """Fetch a detector's checkpoint if it is not here yet, and check it.

    Args:
        name: as `locate` takes it.
        revision: branch, tag or commit, for Hub IDs only.
        weights: False fetches and checks only config, tokenizer and image settings: enough to check a vocabulary.
        module: a user's, whose family it is of, or whose `Detector` reads it.

    Raises:
        Refused: in one line, whatever is wrong with the name, the network, the permission or the files.
    """
    found = locate(name, revision=revision, weights=weights)
    if module is None:
        return _check(found, weights, *find_family(model_config(found), found.name))
    family = module.family()
    if not isinstance(family, ModuleFamily):
        return replace(_check(found, weights, *find_family(model_config(found), found.name, family)), module=module)
    in_place = found.folder == Path(expand_home(str(name).removeprefix("file://")))
    digest = "" if not weights else digest_of_folder(found.folder) if in_place else digest_of(found)
    what, rule = f"{module.name}.Detector", family.image_rule({}, {}, found.name)
    return DetectorCheckpoint(found.folder, found.name, found.revision, digest, what, family, rule, module)


def _check(found: Located, weights: bool, family: Family, architecture: str) -> DetectorCheckpoint:
    files = family.text_files
    if files and not any((found.folder / file_name).is_file() for file_name in files):
        raise Refused(f"checkpoint {found.name} has no tokenizer: it needs a {' or a '.join(files)}")
    rule = family.image_rule(image_processor_config(found.folder), model_config(found), found.name)
    digest = digest_of(found) if weights else ""
    return DetectorCheckpoint(found.folder, found.name, found.revision, digest, architecture, family, rule)
