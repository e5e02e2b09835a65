"""The job server of a cluster: reached over HTTP, and asked for the versions that its jobs will run with."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import ray
import requests
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.dashboard.modules.job.sdk import JobSubmissionClient
from ray.exceptions import AuthenticationError

from labeler.errors import Refused
from labeler.storage import redact

DISTRIBUTION = "batch-labeler"  # the name in pyproject.toml, by which labeler is installed
_REQUEST_TIMEOUT_S = 60.0
_VERSION_TIMEOUT_S = 15.0
_OPTION = "--address"
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # as `ray job submit` takes them
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}")


def choose_address(option: str | None, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the URL of the job server, and the setting that named it: the option, else what `ray job submit` takes.

    Raises:
        Refused: none is named, or it is not such a URL.
    """
    named = [(option or "", _OPTION), *((environment.get(name, ""), name) for name in _VARIABLES)]
    address, setting = next(((value, name) for value, name in named if value), ("", ""))
    if not address:
        raise Refused("--address is missing: the cluster's job server (its dashboard), e.g. http://HEAD:8265")
    if _HOST_AND_PORT.fullmatch(address):
        address = f"http://{address}"
    if not address.lower().startswith(("http://", "https://")):
        raise Refused(
            f"{setting}: {redact(address)} is not the address of a job server; give that of the cluster's dashboard, "
            "e.g. http://HEAD:8265"
        )
    return address.rstrip("/"), setting


class JobServer(JobSubmissionClient):  # type: ignore[misc]  # Ray is not typed
    """Ray's client for jobs, at exactly this address, with a time limit for each request.

    Ray's own constructor prefers RAY_ADDRESS to the address that it is given.

    Raises:
        Refused: nothing answers there, it is not a job server, or its Ray is not one that labeler runs with.
    """

    def __init__(self, address: str, setting: str) -> None:
        _quiet_logs()
        self._client_ray_version = ray.__version__
        self.shown = redact(address)
        try:
            SubmissionClient.__init__(self, address)
            answer = self._do_request("GET", "/api/version", timeout=_VERSION_TIMEOUT_S)
            if not answer.ok:
                raise Refused(self._not_one(setting, f"it answers {answer.status_code}"))
            version = Version(answer.json()["ray_version"])
        except AuthenticationError as error:
            raise Refused(
                f"the job server at {self.shown} wants a token: {_first_line(error)}; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
            ) from None
        except requests.JSONDecodeError:
            raise Refused(self._not_one(setting, "its answer is not JSON")) from None
        except (KeyError, TypeError, InvalidVersion):
            raise Refused(self._not_one(setting, "its answer has no ray_version")) from None
        except (requests.RequestException, ValueError, OSError) as error:
            raise Refused(
                f"the job server at {self.shown} cannot be reached: {reason(error)}; check {setting}, and that the "
                "cluster's dashboard is up and its port open to this machine"
            ) from None
        _require_ray(version, self.shown)
        self._server_ray_version = str(version)

    def _not_one(self, setting: str, why: str) -> str:
        return f"{self.shown} is not a Ray job server: {why}; check {setting}"

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": _REQUEST_TIMEOUT_S, **options})


def reason(error: BaseException) -> str:
    """Return why a request failed, in a few words: what the system said, not the whole chain of HTTP's layers."""
    text = str(error)
    for words in ("Name or service not known", "Connection refused", "No route to host", "timed out"):
        if words in text:
            return words
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _require_ray(version: Version, where: str) -> None:
    admitted = admitted_ray()
    if not admitted.specifier.contains(version, prereleases=True):
        raise Refused(
            f"the cluster at {where} runs Ray {version}, and labeler needs ray{admitted.specifier}; start the cluster "
            "with such a version (requirements.lock has one)"
        )


def admitted_ray() -> Requirement:
    """Return the versions of Ray that labeler runs with; where it is not installed as a package, that
    of this process.
    """
    try:
        named = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        named = []
    return next((each for each in named if each.name == "ray"), Requirement(f"ray=={ray.__version__}"))


def _quiet_logs() -> None:
    """Silence Ray's announcement of each step; labeler prints its own."""
    for name in ("ray.dashboard", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("modules.dashboard_sdk", "modules.job.sdk", "utils"):
        logging.getLogger(f"ray.dashboard.{module}").setLevel(logging.ERROR)
