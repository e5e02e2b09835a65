"""What an image is asked for in one step: sub-sentence prompts with sampled negative categories, in random order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from labeler.errors import Refused
from labeler.prompts.grounding_dino import ChunkPhrase, PromptChunk, check
from labeler.prompts.grounding_dino.tokenizer import CLS_ID, PERIOD_ID, SEP_ID, Tokenizer
from labeler.vocabulary import Vocabulary, refuse


class PromptSampler:
    """Random prompts over a vocabulary. Everything random comes from the generator it is given."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokenizer: Tokenizer,
        *,
        min_categories: int,
        max_categories: int,
        max_tokens: int = 256,
        drop: float = 0.0,
    ) -> None:
        """
        Args:
            min_categories, max_categories: asked for at once; the number is drawn evenly between them. Few teach the
                model to be asked for little; many have more of the look-alikes that it has to distinguish.
            drop: probability that a category which is in the image is not asked for, so that the model learns that
                what it is not asked for is background.

        Raises:
            Refused: the vocabulary does not suit the tokenizer, or the numbers make no sense.
        """
        problems = check(vocabulary, tokenizer, max_tokens).problems
        if problems:
            raise refuse(vocabulary.name, problems)
        if min_categories > max_categories:
            raise Refused(f"prompts.min_categories={min_categories} is more than max_categories={max_categories}")
        self.category_ids = np.asarray([c.id for c in vocabulary.categories], np.int64)
        self._phrases = {c.id: [(t, tuple(tokenizer.word_ids(t))) for t in c.phrases] for c in vocabulary.categories}
        self._range = min(min_categories, len(vocabulary)), min(max_categories, len(vocabulary))
        self._max_tokens, self._drop = max_tokens, drop

    def draw_size(self, rng: np.random.Generator) -> int:
        """Return how many categories to ask for."""
        return int(rng.integers(self._range[0], self._range[1] + 1))

    def draw(
        self,
        rng: np.random.Generator,
        present: Iterable[int],
        size: int,
        *,
        negatives: Sequence[int] | None = None,
    ) -> PromptChunk:
        """Return a prompt for an image: as many of the categories that are in it as there is room for, then others;
        shuffled.

        Args:
            present: category ids of its objects; those outside the vocabulary are never asked for.
            size: number of categories, where the token budget has room for them.
            negatives: ids that may be asked for though they are not in it; None for the whole vocabulary. (In
                federated data sets like LVIS only some categories are known to be absent.)
        """
        inside = np.unique(np.fromiter(present, np.int64))
        inside = inside[np.isin(inside, self.category_ids)]
        asked = rng.permutation(inside[rng.random(len(inside)) >= self._drop])[:size]
        others = self.category_ids if negatives is None else np.asarray(negatives, np.int64)
        others = others[~np.isin(others, inside)]
        extra = rng.choice(others, min(size - len(asked), len(others)), replace=False)
        chosen = asked.tolist() + extra.tolist()
        if not chosen:  # everything dropped and no negative allowed
            chosen = inside.tolist() or [int(rng.choice(self.category_ids))]
        return self._assemble(rng, chosen)

    def _assemble(self, rng: np.random.Generator, chosen: list[int]) -> PromptChunk:
        """Return one of each category's phrases, shuffled; those that come first are kept when the budget is short."""
        room = self._max_tokens - 2
        spelled = []
        for category_id in chosen:
            phrases = self._phrases[category_id]
            text, ids = phrases[int(rng.integers(len(phrases)))]
            if len(ids) + 1 <= room:
                room -= len(ids) + 1
                spelled.append((category_id, text, ids))
        input_ids, found = [CLS_ID], []
        for place in rng.permutation(len(spelled)):
            category_id, text, ids = spelled[place]
            found.append(ChunkPhrase(category_id, text, tuple(range(len(input_ids), len(input_ids) + len(ids)))))
            input_ids += [*ids, PERIOD_ID]
        caption = " ".join(f"{phrase.text.lower()} ." for phrase in found)
        return PromptChunk(0, caption, (*input_ids, SEP_ID), tuple(found))
