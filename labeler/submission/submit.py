"""A run submitted to a cluster as a job, followed, and submitted again until it is complete."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from labeler import __version__, storage
from labeler.config import Config
from labeler.errors import Incomplete, LabelerError, Refused
from labeler.submission.follow import BROKEN, Ending, follow, is_unknown
from labeler.submission.jobs import Attempt, attempts_of, run_name
from labeler.submission.package import Package, collect, require_reachable
from labeler.submission.server import JobServer, reason

STOP_WAIT_S = 30  # from SIGTERM to SIGKILL when a job is stopped; Ray's own 3 s are too short to end in a line
_PAUSE_S = 10.0  # before another attempt
_AGENT_S = 300.0  # a head that has just started answers before it takes jobs
_AGAIN_S = 2.0


@dataclass(frozen=True)
class Submission:
    """A job to submit.

    Attributes:
        config: the checked config.
        package: what travels; its config is the file that `config` was read from.
        words: further arguments of `labeler label`: overrides and options.
    """

    config: Config
    package: Package
    words: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        return run_name(self.config.output.uri)

    @property
    def entrypoint(self) -> str:
        """Return what `ray job submit -- ...` would be given; `exec`, so that signals and exit codes are the driver's
        own.
        """
        return shlex.join(["exec", "python", "-m", "labeler", "label", self.package.config, *self.words])


def prepare(config: Config, path: Path, folder: Path, words: Sequence[str]) -> Submission:
    """Return what is to be submitted.

    Args:
        config: of the file `path` and its overrides.
        folder: the working folder that travels.
        words: overrides and options of `labeler label`.

    Raises:
        Refused: the job would not find on the cluster what the config names, or would label on another one.
    """
    if config.ray.address not in (None, "auto"):
        raise Refused(
            f"ray.address={config.ray.address} names a cluster of its own, and a submitted job runs on the one of "
            "--address; leave ray.address out"
        )
    package = collect(folder, path)
    require_reachable(config, folder, package)
    return Submission(config, package, tuple(words))


def submit_run(
    server: JobServer,
    submission: Submission,
    console: Console,
    write: Callable[[str], object],
    *,
    attempts: int,
    wait: bool = True,
    pause_s: float = _PAUSE_S,
) -> int:
    """Submit a run, or take up the job that works on it already, until it is complete; return the exit code of `label`.

    Args:
        write: takes the next piece of the job's output.
        attempts: jobs in all, by this command.
        wait: follow the job; else return 0 once it is submitted.

    Raises:
        Refused: the job was refused, or never started: nothing is written.
        Incomplete: it ended incomplete `attempts` times, was stopped, or the cluster does not answer any more.
    """
    for count in range(1, attempts + 1):
        attempt = _running_or_new(server, submission, console, f"{count} of at most {attempts}")
        if not wait:
            return 0
        try:
            ending = follow(server, attempt.submission_id, write)
        except KeyboardInterrupt:
            raise Incomplete(
                f"job {attempt.submission_id} continues without this command; to follow it run the same command again, "
                "to end it add --stop"
            ) from None
        if ending.status == "SUCCEEDED":
            return 0
        _end_where_final(attempt, ending)
        if count < attempts:
            console.print(f"job {attempt.submission_id} ended: {ending}", markup=False, soft_wrap=True)
            time.sleep(pause_s)
    raise Incomplete(
        f"job {attempt.submission_id} ended: {ending}; after {attempts} attempts the run is not complete: "
        "run the same command again to continue"
    )


def _end_where_final(attempt: Attempt, ending: Ending) -> None:
    """Raise where another attempt would end in the same way, or is not wanted."""
    if ending.exit_code == Refused.exit_code:
        raise Refused(f"job {attempt.submission_id} was refused, for the reason above")
    if ending.never_started:
        raise Refused(f"job {attempt.submission_id} could not be started on the cluster: {ending.message}")
    if ending.status == "STOPPED":
        raise Incomplete(f"job {attempt.submission_id} was stopped; run the same command again to continue")


def stop_run(server: JobServer, output_uri: str, console: Console) -> int:
    """Stop the jobs of a run, and wait until they are over; return 0.

    Raises:
        Incomplete: a job does not end.
    """
    run = run_name(output_uri)
    running = [attempt for attempt in _attempts(server, run) if attempt.runs]
    for attempt in running:
        _ask(server, partial(server.stop_job, attempt.submission_id))
    deadline = time.monotonic() + STOP_WAIT_S * 3
    while any(attempt.runs for attempt in _attempts(server, run)):
        if time.monotonic() > deadline:
            raise Incomplete(f"jobs of {storage.redact(output_uri)} do not end; see {server.shown}")
        time.sleep(1.0)
    stopped = ", ".join(attempt.submission_id for attempt in running)
    said = f"stopped {stopped}" if stopped else f"no job of {storage.redact(output_uri)} runs at {server.shown}"
    console.print(said, markup=False, soft_wrap=True)
    return 0


def _running_or_new(server: JobServer, submission: Submission, console: Console, which: str) -> Attempt:
    """Return the job that works on the run now; where there is none, a new one."""
    before = _attempts(server, submission.run)
    running = next((attempt for attempt in before if attempt.runs), None)
    if running is not None:
        said = f"job {running.submission_id} works on this run already (its config is that of its own submission)"
        console.print(said, markup=False, soft_wrap=True)
        return running
    attempt = Attempt(submission.run, 1 + max((each.number for each in before), default=0))
    _send(server, submission, attempt)
    said = f"submitted job {attempt.submission_id} ({which}) to {server.shown}: {submission.package}"
    console.print(said, markup=False, soft_wrap=True)
    return attempt


def _send(server: JobServer, submission: Submission, attempt: Attempt) -> None:
    """Submit one job. A head that has just started, and takes no jobs yet, is waited for."""
    deadline = time.monotonic() + _AGENT_S
    with tempfile.TemporaryDirectory(prefix="labeler-") as folder:
        package = Path(folder) / "package.zip"
        submission.package.write(package)
        while True:
            try:
                server.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=attempt.submission_id,
                    runtime_env={
                        "working_dir": str(package),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
                    },
                    metadata={
                        "labeler_version": __version__,
                        "labeler_output": storage.redact(submission.config.output.uri),
                    },
                )
                return
            except BROKEN as error:
                if "already exists" in str(error):  # another command was quicker: its job is the run's
                    return
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise _trouble(server, error) from None
                time.sleep(_AGAIN_S)


def _attempts(server: JobServer, run: str) -> list[Attempt]:
    return attempts_of(run, _ask(server, server.list_jobs))


def _ask(server: JobServer, request: Callable[[], object]) -> list[object]:
    try:
        return request()  # type: ignore[return-value]  # Ray is not typed
    except BROKEN as error:
        if is_unknown(error):
            return []
        raise _trouble(server, error) from None


def _trouble(server: JobServer, error: BaseException) -> LabelerError:
    return Incomplete(f"the job server at {server.shown} does not take the request: {reason(error)}")
