"""What goes wrong while training: images that cannot be read, steps that teach nothing, and when that is too much."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from labeler.errors import Incomplete, LabelerError
from labeler.training.batches import Batch, Dropped

if TYPE_CHECKING:
    from labeler.training.loop import Trainer

_MOST_UNREADABLE = 0.1  # of the images; a few lost ones are normal, more of them mean that a folder is gone

log = logging.getLogger(__name__)


class Trouble:
    """A count of trouble that stops the job when it is too much. Every worker has its own and sees its own images."""

    def __init__(self, stored_images: int, max_bad_steps: int) -> None:
        """
        Args:
            stored_images: how many images the job reads; 0 if it draws them.
            max_bad_steps: steps in a row without a finite loss and gradient, after which the job stops.
        """
        self._stored_images, self._max_bad_steps = stored_images, max_bad_steps
        self._unreadable: set[str] = set()
        self._skipped = 0

    def take(self, loader: Iterator[Batch | Dropped], trainer: Trainer) -> Batch | Dropped:
        """Return the next batch. Raises Incomplete if it cannot be made, after a save."""
        try:
            batch = next(loader)
        except LabelerError as error:  # from another process it comes with that one's traceback
            self.save(trainer, trainer.last_batch)
            raise Incomplete(f"training stopped: {str(error).strip().splitlines()[-1]}; {_saved(trainer)}") from error
        self._unreadable.update(batch.unreadable)
        trainer.unreadable = len(self._unreadable)
        return batch

    def skip(self) -> None:
        """Count a step that taught nothing."""
        self._skipped += 1

    def counts(self) -> dict[str, int]:
        """For the log: `skipped_steps` and `unreadable_images` since the process began, where there are any."""
        found = {"skipped_steps": self._skipped, "unreadable_images": len(self._unreadable)}
        return {name: count for name, count in found.items() if count}

    def check(self, trainer: Trainer, batch: Batch | Dropped) -> None:
        """Raise Incomplete if it is too much; what was learned until then is saved before."""
        unread, total = trainer.unreadable, self._stored_images
        if unread == total > 0 or (unread > 1 and unread > _MOST_UNREADABLE * total):
            self.save(trainer, batch)
            such = "".join(f" ({name}, ...)" for name in sorted(self._unreadable)[:1])
            what = f"{unread:,} of {total:,} images cannot be read{such}"
            raise Incomplete(
                f"training stopped: {what}; restore them, or list only those that are there; {_saved(trainer)}"
            )
        if trainer.bad_steps >= self._max_bad_steps or (trainer.over and trainer.bad_steps and not trainer.learned):
            raise Incomplete(_no_loss(trainer))

    def save(self, trainer: Trainer, batch: Batch | Dropped | None) -> None:
        """Save the trainer if its model gives a finite loss. Raises Incomplete if it does not at the end."""
        if trainer.place.rank:
            return
        if batch is None or trainer.is_sound(batch):
            trainer.save()
        elif trainer.over:
            raise Incomplete(_no_loss(trainer))
        else:
            log.warning("step %d is not saved: the loss of its model is NaN or infinite", trainer.step)


def _no_loss(trainer: Trainer) -> str:
    what = f"the loss or its gradient is NaN or infinite since step {trainer.step - trainer.bad_steps}"
    folder = trainer.outputs.path("checkpoint")
    return f"training stopped: {what}; train from {folder} into another output with a smaller optimizer.lr"


def _saved(trainer: Trainer) -> str:
    return f"step {trainer.step} is saved, and the same command continues from it"
