"""A job followed to its end: what its driver prints, over connections that may break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError

from labeler.errors import Incomplete
from labeler.output import is_of_output
from labeler.submission.server import JobServer, reason

QUIET_S = 30.0  # after that long without a line the job is asked for: a connection may be dead without an error
LOST_S = 300.0  # that long may the job server not answer
_AGAIN_S = 2.0
BROKEN = (aiohttp.ClientError, requests.RequestException, OSError, RuntimeError, TimeoutError, AuthenticationError)


@dataclass
class Ending:
    """The end of a job.

    Attributes:
        status: SUCCEEDED, FAILED or STOPPED; LOST where the cluster knows it no more.
        exit_code: of its driver; None where Ray does not know, negative for a signal.
        message: Ray's own, in one line, where the driver never ran.
    """

    status: str
    exit_code: int | None = None
    message: str = ""
    never_started: bool = False

    def __str__(self) -> str:
        if self.exit_code is not None:
            died = f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}"
            return f"{self.status} ({died})"
        return f"{self.status} ({self.message})" if self.message else self.status


def follow(server: JobServer, submission_id: str, write: Callable[[str], object]) -> Ending:
    """Write what a job prints until it is over, each character once, and return how it ended.

    Args:
        write: takes the next piece of the job's output.

    Raises:
        Incomplete: the job server did not answer for five minutes.
    """
    tail = _Tail(server, submission_id, write)
    while True:
        try:
            asyncio.run(tail.read())
            details = server.get_job_info(submission_id)
        except BROKEN as error:
            if isinstance(error, OSError) and is_of_output(error):
                raise
            if is_unknown(error):
                return Ending("LOST", message="the cluster does not know it any more; was its head started again?")
            if time.monotonic() - tail.heard > LOST_S:
                raise Incomplete(
                    f"the job server at {server.shown} does not answer any more: {reason(error)}; "
                    "the job may continue: run the same command again to follow it"
                ) from None
        else:
            if details.status.is_terminal():
                return ending_of(details)
        time.sleep(_AGAIN_S)


def ending_of(details: Any) -> Ending:
    """Return how a job ended, by Ray's details of it."""
    code = details.driver_exit_code
    return Ending(
        str(details.status),
        code,
        message=_one_line(details.message) if code is None and details.message else "",
        never_started=details.error_type in ("RUNTIME_ENV_SETUP_FAILURE", "JOB_ENTRYPOINT_COMMAND_START_ERROR"),
    )


def is_unknown(error: BaseException) -> bool:
    """Return whether the job server answered that there is no such job."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return error.status == requests.codes.not_found
    return isinstance(error, RuntimeError) and "status code 404" in str(error)


def _one_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return (lines[-1] if lines else "")[:300]


class _Tail:
    """The output of a job, and how much of it was written: each connection sends it from the beginning."""

    def __init__(self, server: JobServer, submission_id: str, write: Callable[[str], object]) -> None:
        self._server, self._id, self._write = server, submission_id, write
        self._written = 0
        self.heard = time.monotonic()

    async def read(self) -> None:
        """Write what is new until the connection ends."""
        left = self._written  # characters of this connection that were written before
        stream = self._server.tail_job_logs(self._id)
        try:
            while (piece := await self._next(stream)) is not None:
                fresh, left = piece[left:], max(0, left - len(piece))
                self._written += len(fresh)
                self._write(fresh)
        finally:
            await stream.aclose()

    async def _next(self, stream: Any) -> str | None:
        """Return the next piece; None at the end, or where a job that is over sends nothing more."""
        coming, over = asyncio.ensure_future(anext(stream, None)), False
        try:
            while not (await asyncio.wait({coming}, timeout=QUIET_S))[0]:
                if over:
                    return None
                details = await asyncio.to_thread(self._server.get_job_info, self._id)
                self.heard, over = time.monotonic(), details.status.is_terminal()
            self.heard = time.monotonic()
            return await coming
        finally:
            coming.cancel()
            await asyncio.wait({coming})
