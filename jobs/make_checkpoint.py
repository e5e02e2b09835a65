"""Write a Grounding DINO checkpoint with random weights: `python -m jobs.make_checkpoint FOLDER --vocabulary V`."""

import argparse
import sys

from labeler.detectors.grounding_dino.scratch import KINDS, SIZES, create_checkpoint
from labeler.errors import LabelerError
from labeler.vocabulary import Vocabulary


def main() -> int:
    parser = argparse.ArgumentParser(prog="make_checkpoint", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--vocabulary", help="names its tokenizer knows as whole words")
    parser.add_argument("--bert-vocabulary", metavar="FILE", help="a BERT vocab.txt to use as it is, instead")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--kind", choices=sorted(KINDS), default="mm")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        words: list[str] = []
        if arguments.vocabulary:
            phrases = [text for c in Vocabulary.load(arguments.vocabulary).categories for text in c.phrases]
            words = sorted({word for text in phrases for word in text.lower().split()})
        folder = create_checkpoint(
            arguments.folder,
            words=words,
            vocab_file=arguments.bert_vocabulary,
            kind=arguments.kind,
            size=arguments.size,
            seed=arguments.seed,
            redraw=True,  # every parameter: fresh initialization would see no difference between images
        )
    except LabelerError as error:
        print(f"make_checkpoint: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{folder}: a {arguments.size} Grounding DINO with RANDOM weights: it runs, and its labels mean nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
