"""What the captions or tags of an input name: phrases with counts, and how a vocabulary meets them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from labeler.errors import Refused
from labeler.labeling.names.of_field import NamesOfField
from labeler.shards import Item, Unit, find_shards, read_units
from labeler.vocabulary import Vocabulary

TOP = 100  # phrases that are named
_MOST_PHRASES = 1_000_000  # that are counted at once: the rarest are dropped where there are more
MOST_NAMES = 100_000  # of a vocabulary


@dataclass
class Captions:
    """Counts over images.

    Attributes:
        images, with_text, named: all; those that have the field; those in which a category of the vocabulary is named.
        phrases: images by phrase, of those that match no category.
        categories: images by category id.
    """

    images: int = 0
    with_text: int = 0
    named: int = 0
    phrases: Counter[str] = field(default_factory=Counter)
    categories: Counter[int] = field(default_factory=Counter)

    def common(self, least: int, most: int) -> list[tuple[str, int]]:
        """Return phrases that at least that many images have, the most frequent first."""
        ordered = sorted(self.phrases.items(), key=lambda each: (-each[1], each[0]))
        return [each for each in ordered[:most] if each[1] >= least]


def read_captions(items: Iterable[Item], name: str, vocabulary: Vocabulary | None) -> Captions:
    """Count what the images' texts say.

    Args:
        name: of the sidecar or column, as in `input.keep`.
        vocabulary: None: every phrase counts as matching none.

    Raises:
        Refused: no image has it.
    """
    counts, matcher = Captions(), NamesOfField(name, {}) if vocabulary is None else NamesOfField.of(name, vocabulary)
    for item in items:
        counts.images += 1
        text = item.kept.get(name)
        if text is None:
            continue
        ids, rest = matcher.read(text)
        counts.with_text += 1
        counts.named += bool(ids)
        counts.categories.update(ids)
        counts.phrases.update(set(rest))
        if len(counts.phrases) > _MOST_PHRASES:
            counts.phrases = Counter(dict(counts.phrases.most_common(_MOST_PHRASES // 2)))
    if not counts.with_text:
        raise Refused(
            f"none of {counts.images:,} images has {name!r}; name a sidecar by its extension (txt, json.tags for a "
            "field of the .json), or a column of a Parquet file"
        )
    return counts


def items_of(uri: str, name: str, *, limit: int | None, image_column: str | None) -> Iterator[Item]:
    """Return the images of an input with this sidecar or column. Raises Refused and StorageError as a run does."""
    found = (read for shard in find_shards([uri], image_column=image_column)
             for read in read_units(shard, keep=(name,), image_column=image_column))  # fmt: skip
    return islice((item for read in found if isinstance(read, Unit) for item in read.items), limit)


def describe_captions(counts: Captions, name: str, vocabulary: Vocabulary | None, *, least: int) -> list[str]:
    """For people: how many images have a text, how many categories it names, and the phrases that are none."""
    lines = [f"{counts.images:,} images, {counts.with_text:,} of them with {name}"]
    if vocabulary is not None:
        own = [category for category in vocabulary.categories if not category.negative]
        met = sum(category.id in counts.categories for category in own)
        lines.append(f"{met:,} of {len(own):,} categories are named, in {counts.named:,} images")
    what = "phrases" if vocabulary is None else "phrases that match no category"
    top = counts.common(least, TOP)
    lines.append(f"{what}: {len(counts.phrases):,}" + (f"; the {len(top):,} most frequent:" if top else ""))
    return [*lines, *(f"{count:>9,}  {phrase}" for phrase, count in top)]


def as_vocabulary(counts: Captions, least: int) -> str:
    """Return a .txt vocabulary of the phrases, the most frequent first."""
    return "".join(f"{phrase}  # {count:,} images\n" for phrase, count in counts.common(least, MOST_NAMES))
