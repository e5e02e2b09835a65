"""Label from a program: the whole input on Ray, or a sample on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from labeler.api.configuration import ConfigLike, as_config
from labeler.api.labeled_run import LabeledRun
from labeler.terminal import LogConsole, message_console

if TYPE_CHECKING:
    from labeler.pipeline.display import JobProgress
    from labeler.trial.preview import Preview


def label(
    config: ConfigLike,
    overrides: Sequence[str] = (),
    *,
    extend: bool = False,
    on_progress: Callable[[JobProgress], None] | None = None,
    verbose: bool = False,
    handle_signals: bool = False,
) -> LabeledRun:
    """Label every image of the input on Ray, or resume the run that the output holds.

    A Ray that this process is connected to is used; else `ray.address` of the config decides, and a Ray that is started
    here stays up until `ray.shutdown()` or the end of the process.

    Args:
        config: a `Config`, the path of a YAML file, or a mapping of its sections.
        overrides: `section.key=value`, applied last.
        extend: list the input again, and add what is new to the run.
        on_progress: called in this thread with the counts, several times a second at most per worker. An exception that
            it raises ends the job, which the same call resumes.
        verbose: print messages and progress to standard error, as `labeler label` does.
        handle_signals: let Ctrl-C, SIGTERM and SIGHUP end the job in an orderly way, as `labeler label` does; only in
            the main thread. Without it KeyboardInterrupt reaches the caller.

    Returns:
        The complete run.

    Raises:
        Refused: the config, vocabulary, checkpoint, input, output or cluster is wrong; nothing was written.
        Incomplete: the job stopped before its end; the same call resumes it.
    """
    from labeler.pipeline.label import label as run_job
    from labeler.pipeline.session import Caller

    console = message_console() if verbose else LogConsole()
    caller = Caller(signals=handle_signals, on_progress=on_progress)
    outcome = run_job(as_config(config, overrides), extend=extend, console=console, caller=caller)
    return LabeledRun(outcome.run)


def preview(config: ConfigLike, overrides: Sequence[str] = (), *, images: int = 50, threshold: float = 0.3) -> Preview:
    """Label a random sample of the input in this process, without Ray, and draw it. Nothing is written.

    Args:
        config, overrides: as of `label`; the output is not used.
        images: how many, chosen by a fixed seed.
        threshold: boxes with at least this score are drawn.

    Returns:
        The image as PNG bytes (`png`), images by status (`statuses`), and the number of boxes drawn (`detections`).

    Raises:
        Refused: as `label`.
    """
    from labeler.errors import Refused
    from labeler.labeling.resolve import resolve_job
    from labeler.trial.preview import preview as draw

    if images < 1 or not 0 <= threshold <= 1:
        raise Refused(f"a preview takes 1 or more images and a threshold from 0 to 1, got {images} and {threshold}")
    return draw(resolve_job(as_config(config, overrides)), sample=images, threshold=threshold)
