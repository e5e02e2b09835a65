"""`labeler vocabulary try`: how good each phrase of a vocabulary is, on a sample of annotated images."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeler import storage
from labeler.commands.arguments import Verbs, is_config, require_replaceable, written
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.config import Config


def add(actions: Verbs) -> None:
    parser = actions.add_parser("try", help="label a sample of annotated images, and evaluate each phrase alone")
    parser.add_argument("vocabulary", metavar="VOCABULARY", help="built-in name or file, or the configuration of a run")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of the configuration, e.g. model.name=FOLDER"
    )
    parser.add_argument("--annotations", metavar="URI", required=True, help="ground truth: COCO or LVIS JSON")
    parser.add_argument(
        "--images", metavar="INPUT", help="folder, glob or file of the images (default: the input of the configuration)"
    )
    tried = parser.add_argument_group("what is tried")
    tried.add_argument("--sample", type=int, default=100, metavar="N", help="most images to label (default: 100)")
    tried.add_argument("--synonyms", action="store_true", help="also use the synonyms of each category")
    tried.add_argument(
        "--no-proposals", action="store_true", help="try no words of lvis_v1 and objects365_v1 for these names"
    )
    tried.add_argument(
        "--min-objects",
        type=int,
        default=10,
        metavar="N",
        help="objects that a category needs for a choice of phrases (default: 10)",
    )
    written = parser.add_argument_group("output")
    written.add_argument("--output", metavar="NEW.yaml", help="vocabulary file to write, with the chosen phrases")
    written.add_argument("--force", action="store_true", help="replace a file that this command did not write")
    parser.set_defaults(run=_try)


def _try(arguments: argparse.Namespace) -> int:
    from labeler.trial.phrase_lines import describe, describe_written, to_yaml
    from labeler.trial.phrases import try_phrases

    config, target, replaced = _config(arguments), arguments.output, None
    if target is not None:
        if Path(target).suffix not in (".yaml", ".yml"):
            raise Refused(f"--output {storage.redact(target)} is a vocabulary in YAML: name it .yaml")
        what = "a vocabulary by `labeler vocabulary try`"
        replaced = require_replaceable(target, describe_written, what, force=arguments.force)
    trial = try_phrases(
        config,
        arguments.annotations,
        images=arguments.sample,
        proposals=not arguments.no_proposals,
        min_objects=arguments.min_objects,
    )
    lines = list(describe(trial))
    if target is not None:
        storage.put(target, to_yaml(trial))  # first: the reader of the output may go away (`| head`)
        lines.append(written(target, replaced))
    print("\n".join(lines))
    return 0


def _config(arguments: argparse.Namespace) -> Config:
    """The configuration named, or one of the vocabulary and the images."""
    from labeler.config import make_config
    from labeler.config_values import read_yaml

    for option, number in (("--sample", arguments.sample), ("--min-objects", arguments.min_objects)):
        if number < 1:
            raise Refused(f"{option} {number} is not a number of 1 or more")
    if (arguments.images or "").isdecimal():
        raise Refused(f"--images {arguments.images}: this is where the images are; --sample says how many")
    name = arguments.vocabulary
    if is_config(name):
        if arguments.synonyms:
            raise Refused(f"--synonyms: {name} is a run's configuration, which says that itself")
        values: dict[str, Any] = read_yaml(Path(name))
    else:
        spec = {"name": name, "synonyms": True} if arguments.synonyms else name
        # No run is here, so no image is excluded by one.
        values = {"vocabulary": spec, "output": str(Path(tempfile.gettempdir()) / "labeler-vocabulary-try")}
    if arguments.images is not None:
        source = values.get("input")
        values["input"] = {**source, "uri": arguments.images} if isinstance(source, dict) else arguments.images
    elif "input" not in values and not any(word.startswith("input") for word in arguments.overrides):
        raise Refused(f"no images: {name} names none; give --images INPUT, the images that are annotated")
    return make_config(values, arguments.overrides, where=name)
