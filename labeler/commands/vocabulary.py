"""`labeler vocabulary`: list, show and check vocabularies."""

from __future__ import annotations

import argparse

from labeler.commands.arguments import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("vocabulary", help="list, show and check vocabularies")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the built-in vocabularies")
    listing.set_defaults(run=_vocabulary_list)
    for name, text, run in (
        ("show", "a vocabulary's categories", _vocabulary_show),
        ("check", "every problem of a vocabulary at once, and its prompt chunks", _vocabulary_check),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("vocabulary", metavar="VOCABULARY", help="a built-in name, or a file")
        action.add_argument("--synonyms", action="store_true", help="use the synonyms of each category too")
        if name == "check":
            action.add_argument("--model", metavar="MODEL", help="checkpoint whose tokenizer decides")
            action.add_argument("--revision", help="its revision on the hub")
            action.add_argument("--max-tokens", type=int, default=256, help="tokens per chunk (default 256)")
        action.set_defaults(run=run)


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
    from labeler.checkpoints import resolve
    from labeler.config import ModelConfig, PromptsConfig
    from labeler.prompts.text import describe
    from labeler.prompts.vocabulary_for import load_vocabulary
    from labeler.vocabulary import Vocabulary

    if arguments.model is None:
        print("\n".join(describe(Vocabulary.load(arguments.vocabulary, synonyms=arguments.synonyms), None)))
        return 0
    checkpoint = resolve(arguments.model, revision=arguments.revision, weights=False)
    planner = checkpoint.family.planner(checkpoint.folder, ModelConfig())
    prompts = PromptsConfig.model_construct(max_tokens=arguments.max_tokens)  # the planner says what is wrong with it
    vocabulary = load_vocabulary(
        arguments.vocabulary, planner, prompts, family=checkpoint.family, synonyms=arguments.synonyms
    )
    print("\n".join(describe(vocabulary, planner, prompts)))
    return 0
