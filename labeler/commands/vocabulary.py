"""`labeler vocabulary`: list, show, check, try and make vocabularies."""

from __future__ import annotations

import argparse

from labeler.commands import vocabulary_from, vocabulary_try
from labeler.commands.arguments import Verbs, is_config
from labeler.errors import Refused

_OF_A_VOCABULARY = ("synonyms", "model", "revision", "max_tokens")


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("vocabulary", help="list, show, check, try and make vocabularies")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the built-in vocabularies")
    listing.set_defaults(run=_vocabulary_list)
    vocabulary_from.add(actions)
    for name, text, run in (
        ("show", "print the categories of a vocabulary", _vocabulary_show),
        ("check", "report every problem of a vocabulary, and its prompt chunks", _vocabulary_check),
    ):
        action = actions.add_parser(name, help=text)
        or_config = ", or the configuration of a run" if name == "check" else ""
        action.add_argument("vocabulary", metavar="VOCABULARY", help=f"built-in name or file{or_config}")
        action.add_argument("--synonyms", action="store_true", help="also use the synonyms of each category")
        if name == "check":
            action.add_argument(
                "overrides",
                nargs="*",
                metavar="key=value",
                help="override of the configuration, e.g. model.name=FOLDER",
            )
            action.add_argument(
                "--model",
                metavar="MODEL",
                help="checkpoint whose tokenizer is used: Hugging Face Hub ID, folder or URI",
            )
            action.add_argument("--revision", metavar="NAME", help="revision of the checkpoint on the Hub")
            action.add_argument(
                "--max-tokens", type=int, metavar="N", help="most tokens per prompt chunk (default: 256)"
            )
        action.set_defaults(run=run)
    vocabulary_try.add(actions)


def _vocabulary_list(arguments: argparse.Namespace) -> int:
    from labeler.prompts.text import list_built_in

    print("\n".join(list_built_in()))
    return 0


def _vocabulary_show(arguments: argparse.Namespace) -> int:
    from labeler.prompts.text import show_categories
    from labeler.vocabulary import Vocabulary

    print("\n".join(show_categories(Vocabulary.load(arguments.vocabulary, synonyms=arguments.synonyms))))
    return 0


def _vocabulary_check(arguments: argparse.Namespace) -> int:
    from labeler.prompts.text import warning_lines

    try:
        lines = _check_config(arguments) if is_config(arguments.vocabulary) else _check_names(arguments)
    except Refused as error:
        for line in warning_lines(error.warnings):
            print(line)
        raise
    print("\n".join(lines))
    return 0


def _check_names(arguments: argparse.Namespace) -> list[str]:
    from labeler.checkpoints import resolve
    from labeler.config import ModelConfig, PromptsConfig
    from labeler.prompts.family import PlanReport
    from labeler.prompts.text import describe
    from labeler.prompts.vocabulary_for import load_checked, load_vocabulary

    if arguments.overrides:
        raise Refused(f"{arguments.overrides[0]}: only the values of a run's configuration can be overridden")
    spec, synonyms = arguments.vocabulary, arguments.synonyms
    if arguments.model is None:
        return describe(load_checked(spec, lambda sound: PlanReport([], list(sound.warnings)), synonyms=synonyms), None)
    checkpoint = resolve(arguments.model, revision=arguments.revision, weights=False)
    planner = checkpoint.family.planner(checkpoint.folder, ModelConfig())
    tokens = 256 if arguments.max_tokens is None else arguments.max_tokens
    prompts = PromptsConfig.model_construct(max_tokens=tokens)  # the planner says what is wrong with it
    vocabulary = load_vocabulary(spec, planner, prompts, family=checkpoint.family, synonyms=synonyms)
    return describe(vocabulary, planner, prompts)


def _check_config(arguments: argparse.Namespace) -> list[str]:
    """With the checkpoint, the label map and the prompts that a run would have."""
    from labeler.config import load_config
    from labeler.labeling.resolve import resolve_names
    from labeler.prompts.text import describe

    given = [f"--{name.replace('_', '-')}" for name in _OF_A_VOCABULARY if getattr(arguments, name)]
    if given:
        raise Refused(f"{', '.join(given)}: {arguments.vocabulary} is a run's configuration, which says that itself")
    names = resolve_names(load_config(arguments.vocabulary, arguments.overrides))
    return describe(names.vocabulary, names.planner, names.config.prompts)
