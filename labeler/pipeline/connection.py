"""The connection to Ray: which cluster a job runs on, joined or started here, and the line that names it."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_ray_address_file
from ray._private import services
from rich.console import Console

from labeler.errors import Refused
from labeler.output import silent_stderr
from labeler.pipeline.cluster import last_line
from labeler.pipeline.local_ray import check_process_limit, check_ray_folder
from labeler.pipeline.nodes import alive_nodes

_LOCAL, _AUTO = "local", "auto"  # what Ray itself takes for an address, beside HOST:PORT and ray://HOST:PORT
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # `ray job submit` sets it, and RAY_ADDRESS, for the driver of a job
_VERSION = re.compile(r"^\s*(Ray|Python): (\S+)$", re.MULTILINE)
_NOTE_TIMEOUT_S = 1.0  # the cluster of the note is on this machine
_JOIN_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 240.0  # Ray gives up by itself after one minute where it notices that it cannot start


@dataclass(frozen=True)
class RayTarget:
    """A Ray address, and the setting that named it (empty: none did)."""

    address: str
    named_by: str = ""


def choose_target(setting: str | None, environment: Mapping[str, str]) -> RayTarget:
    """Return the cluster to use: that of `ray.address`, of RAY_ADDRESS, of the job this is the driver of, or a new one.

    A Ray that merely happens to run on this machine is never taken: `ray.init()` alone would join it.

    Args:
        setting: `ray.address` of the configuration.
        environment: environment variables.
    """
    if setting and setting != _AUTO:
        return RayTarget(setting, "ray.address")
    if address := environment.get("RAY_ADDRESS"):
        return RayTarget(address, "RAY_ADDRESS")
    if setting:
        return RayTarget(setting, "ray.address")
    if _JOB_VARIABLE in environment:
        return RayTarget(_AUTO, "the environment of this Ray job")
    return RayTarget(_LOCAL)


def is_connected() -> bool:
    """Return whether this process is connected to a Ray already."""
    return bool(ray.is_initialized())


def starts_ray(setting: str | None) -> bool:
    """Return whether `connect` would start a Ray of its own."""
    return not ray.is_initialized() and choose_target(setting, os.environ).address == _LOCAL


def connect(setting: str | None, console: Console, *, log_to_driver: bool = False) -> bool:
    """Join a Ray cluster or start one on this machine, and print one line that names it.

    Args:
        setting: `ray.address` of the configuration. A Ray that this process has initialized already is used as it is.
        log_to_driver: whether what workers print comes out here.

    Returns:
        Whether the cluster was started by this process, so that no autoscaler can ever add to it.

    Raises:
        Refused: if the cluster cannot be reached or Ray cannot be started.
    """
    if ray.is_initialized():
        started_here, how = _is_started_here(), f"using the Ray of this process at {_address()}"
    else:
        target = choose_target(setting, os.environ)
        _quiet_logs()
        started_here = target.address == _LOCAL
        if started_here:
            _start(target, console, log_to_driver)
            how = f"started Ray on this machine at {_address()}"
        else:
            _join(target, log_to_driver)
            how = f"joined the Ray cluster at {_address()} ({target.named_by})"
    console.print(f"{how}: {_extent()}", markup=False, soft_wrap=True)
    return started_here


def _is_started_here() -> bool:
    """Return whether `ray.init` in this process started the cluster."""
    from ray._private import worker

    return bool(getattr(worker._global_node, "ray_init_cluster", False))


def _start(target: RayTarget, console: Console, log_to_driver: bool) -> None:
    if not target.named_by and (running := noted_cluster()):
        console.print(
            f"a Ray cluster runs on this machine at {running}; to use it instead of a new one, set ray.address=auto",
            markup=False,
            soft_wrap=True,
        )
    folder = check_ray_folder()
    check_process_limit()
    where = f"if this machine is busy, run the command again; Ray's logs are below {folder}; RAY_TMPDIR chooses another"
    try:
        with ended_after(_START_TIMEOUT_S, f"labeler: Ray does not start on this machine; {where}"), on_loopback():
            _initialize(_LOCAL, log_to_driver, include_dashboard=False)
    except Exception as error:  # among them a bare one, when a machine is too busy to start Ray in time
        why = last_line(error).rstrip(".")  # Ray's sentence, which continues here
        raise Refused(f"Ray does not start on this machine: {why}; {where}") from None


@contextmanager
def on_loopback() -> Iterator[None]:
    """While inside, a Ray that is started here listens on 127.0.0.1 alone, as Ray itself does on other systems.

    Its node would listen on all interfaces otherwise, and anyone who reaches a port can run code.
    """
    from ray._private import ray_constants

    variable, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    inherited = os.environ.get(variable)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"  # here, and for the processes it starts
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(variable) if inherited is None else os.environ.update({variable: inherited})


@contextmanager
def ended_after(seconds: float, message: str) -> Iterator[None]:
    """While inside, end this process with a line and exit code 2 after a time.

    Ray waits in C++ code, which no exception interrupts.
    """
    stderr = os.dup(2)  # 2 itself is silenced while Ray starts

    def end() -> None:
        os.write(stderr, f"{message}\n".encode())
        os._exit(Refused.exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        os.close(stderr)


def _join(target: RayTarget, log_to_driver: bool) -> None:
    address = _resolve(target)
    problem = "" if address == _AUTO or "://" in address else unreachable(address, _JOIN_TIMEOUT_S)
    if not problem:
        late = f"labeler: Ray cluster {address} does not let this job join; check {target.named_by}"
        try:
            with ended_after(_START_TIMEOUT_S, late):
                _initialize(address, log_to_driver)
        except Exception as error:
            if other := _other_versions(error):
                raise Refused(f"Ray cluster {address} runs {other}; check {target.named_by}") from None
            problem = last_line(error)
    if problem:
        raise Refused(f"Ray cluster {address} cannot be reached: {problem}; check {target.named_by}")


def _other_versions(error: Exception) -> str:
    """Return what Ray says in six lines about versions that differ, in one; empty where the error is another."""
    if "Version mismatch" not in str(error):
        return ""
    versions = _VERSION.findall(str(error))
    theirs, ours = (", ".join(map(" ".join, versions[part])) for part in (slice(0, 2), slice(2, 4)))
    return f"{theirs}, and this process {ours}: use the cluster's versions"


def _resolve(target: RayTarget) -> str:
    """Return the address to join; for `auto` that of Ray's own note, where there is one."""
    if target.address.startswith(("http://", "https://")):
        raise Refused(
            f"{target.named_by}: {target.address} is the address of a Ray dashboard; use HOST:PORT of the cluster, "
            "auto for the one on this machine, or local to start one"
        )
    if target.address != _AUTO:
        return target.address
    if (noted := _note()) is None:
        return _only_running(target)
    if problem := unreachable(noted, _NOTE_TIMEOUT_S):
        raise Refused(
            f"{target.named_by}: auto means the Ray cluster at {noted} (see {get_ray_address_file(None)}), which "
            f"cannot be reached: {problem}; start it again with `ray start --head`, or use ray.address=local"
        )
    return noted


def _only_running(target: RayTarget) -> str:
    """Return the address of the one Ray cluster that has a process on this machine, as on a node without a note.

    Ray itself would take any of several, and wait for minutes for one that does not let it join.
    """
    running = [each for each in sorted(services.find_gcs_addresses()) if not unreachable(each, _NOTE_TIMEOUT_S)]
    if len(running) == 1:
        return str(running[0])
    found = f"{len(running)} run here ({', '.join(running)})" if running else "none runs here"
    raise Refused(
        f"{target.named_by}: auto means the Ray cluster of this machine, and {found}; give ray.address=HOST:PORT, or "
        "ray.address=local to start one"
    )


def noted_cluster() -> str | None:
    """Return the address in Ray's own note of the last cluster that was started on this machine, if it answers."""
    noted = _note()
    return None if noted is None or unreachable(noted, _NOTE_TIMEOUT_S) else noted


def _note() -> str | None:
    try:
        return Path(get_ray_address_file(None)).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def unreachable(address: str, timeout_s: float) -> str:
    """Return why nothing accepts connections at HOST:PORT; empty if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except ValueError:
        return "not an address, use HOST:PORT"
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


def _initialize(address: str, log_to_driver: bool, **options: Any) -> None:
    with silent_stderr(), _own_sigterm():  # Ray's core announces its log level on the descriptor itself
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging.ERROR, **options)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself while it starts, and would end the process without a line."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def _address() -> str:
    address = "an unknown address"
    with suppress(Exception):  # a Ray Client does not know it
        address = ray.get_runtime_context().gcs_address
    return address


def _extent() -> str:
    """E.g. "2 nodes, 16 CPUs, 2 GPUs"."""
    nodes = alive_nodes()
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    counts = ((len(nodes), "node"), (cpus, "CPU"), (gpus, "GPU"))
    return ", ".join(f"{count:g} {noun}{'' if count == 1 else 's'}" for count, noun in counts)


def _quiet_logs() -> None:
    """Ray's own lines are for Ray's developers; what a user needs comes with receipts."""
    logging.raiseExceptions = False  # a full disk would print a traceback for each line of Ray's own logs
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its file in the session folder keeps everything
            handler.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")  # fewer units than workers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each wave says that actor arguments may be lost
