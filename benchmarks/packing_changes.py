"""How many prompt chunks have another text after one name of a vocabulary changes: as packed, and by another rule.

    python -m benchmarks.packing_changes --tokenizer bert-base-uncased

Vocabularies are drawn from LVIS's names; names that are added, or take another's place, are from Objects365.
"packed" is what a fresh run has. "by hash" is a rule for small changes that labeler does not use: each name ranks the
chunks by a hash of name and chunk, and takes the first with room, long names first.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from labeler.digests import digest_of
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Category, Vocabulary

ROOM = 254  # tokens of a chunk without [CLS] and [SEP]
Packing = Callable[[Sequence[str]], list[str]]


def packed(tokenizer: Tokenizer, names: Sequence[str]) -> list[str]:
    """The text of each chunk of a fresh run."""
    categories = tuple(Category(number, name, (name,)) for number, name in enumerate(names, 1))
    return [chunk.caption for chunk in pack(Vocabulary("names", categories), tokenizer).chunks]


def by_hash(tokenizer: Tokenizer, names: Sequence[str]) -> list[str]:
    """The same by the other rule, in as few chunks as it manages."""
    cost = {name: len(tokenizer.word_ids(name)) + 1 for name in names}
    count = -(-sum(cost.values()) // ROOM)
    while True:
        left, chunks = [ROOM] * count, [list[str]() for _ in range(count)]
        for name in sorted(names, key=lambda name: (-cost[name], _hash(name))):
            ranked = sorted(range(count), key=lambda chunk: _hash(f"{name}|{chunk}"))
            place = next((chunk for chunk in ranked if cost[name] <= left[chunk]), None)
            if place is None:
                break
            left[place] -= cost[name]
            chunks[place].append(name)
        else:
            return [" . ".join(sorted(members)) for members in chunks]
        count += 1


def _hash(text: str) -> str:
    return digest_of(text.encode())


def measure(pack_names: Packing, size: int, *, rounds: int) -> dict[str, Any]:
    """Chunks, and the mean number of them with another text after each kind of change."""
    rng = random.Random(0)
    lvis = [category.phrases[0] for category in Vocabulary.load("lvis_v1").categories]
    known = {name.casefold() for name in lvis}
    others = [category.phrases[0] for category in Vocabulary.load("objects365_v1").categories]
    fresh = [name for name in others if name.casefold() not in known]
    chunks: list[int] = []
    changed: dict[str, list[int]] = {}
    for _ in range(rounds):
        names = rng.sample(lvis, size) if size < len(lvis) else list(lvis)
        new, at = rng.choice(fresh), rng.randrange(size)
        before = pack_names(names)
        chunks.append(len(before))
        for kind, after in {
            "added at the end": [*names, new],
            "added anywhere": [*names[:at], new, *names[at:]],
            "removed": [*names[:at], *names[at + 1 :]],
            "renamed": [*names[:at], new, *names[at + 1 :]],
        }.items():
            changed.setdefault(kind, []).append(len(set(pack_names(after)) - set(before)))
    return {"names": size, "chunks": mean(chunks)} | {
        kind: {"mean": mean(counts), "most": max(counts)} for kind, counts in changed.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with BERT's vocab.txt")
    parser.add_argument("--names", type=int, nargs="+", default=[300, 1203])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args(arguments)
    tokenizer = Tokenizer.load(asked.tokenizer)
    rules = {"packed": packed, "by hash": by_hash}
    rows = []
    for size in asked.names:
        for rule, of in rules.items():
            found = measure(lambda names, of=of: of(tokenizer, names), size, rounds=asked.rounds)  # type: ignore[misc]
            rows.append({"rule": rule, **found})
            shown = ", ".join(f"{kind} {v['mean']:.1f}" for kind, v in found.items() if isinstance(v, dict))
            print(f"{size} names, {rule:8} {found['chunks']:.1f} chunks; with another text: {shown}", flush=True)
    if asked.output:
        asked.output.write_text(json.dumps({"rounds": asked.rounds, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
