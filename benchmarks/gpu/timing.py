"""Seconds, memory and launches of one call on a device."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from labeler.detectors.clock import seconds_on

_LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch"}
_LARGEST = 12  # kernels that are named


def one_call_s(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device is done."""
    clock = seconds_on(device)
    start = clock()
    call()
    return clock() - start


def call_ms(call: Callable[[], object], device: torch.device, repeats: int = 7) -> dict[str, float]:
    """Milliseconds of a call, after two to warm up.

    Returns:
        host: until the host is given back, the median; whole: until the device is done, the median; whole_least: the
        least; in_a_row: of each when all are asked for before the first is waited for.
    """
    for _ in range(2):
        call()
    clock, host, whole = seconds_on(device), [], []
    for _ in range(repeats):
        start = clock()
        call()
        host.append(time.perf_counter() - start)
        whole.append(clock() - start)
    start = clock()
    for _ in range(repeats):
        call()
    in_a_row = (clock() - start) / repeats
    found = {
        "host": statistics.median(host),
        "whole": statistics.median(whole),
        "whole_least": min(whole),
        "in_a_row": in_a_row,
    }
    return {name: round(1000 * seconds, 3) for name, seconds in found.items()}


def fresh_memory() -> None:
    """Give back what is not used; the peak is counted from here on."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, Any]:
    """Gigabytes of the GPU since `fresh_memory`; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_gb": round(torch.cuda.memory_reserved() / 1e9, 2),
    }


def launches(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Of one call: what the host launched, how long the device was busy, its largest kernels.

    On a CPU: how many of torch's operations ran, and the largest of these.
    """
    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        one_call_s(call, device)
    events = list(profiler.events() or [])
    kernels = [event for event in events if _on_gpu(event)]
    counted = kernels if device.type == "cuda" else [event for event in events if event.name.startswith("aten::")]
    largest: Counter[str] = Counter()
    for event in counted:
        took = event.time_range.elapsed_us() if _on_gpu(event) else event.self_cpu_time_total
        largest[event.name[:80]] += int(took)
    return {
        "launches": sum(event.name in _LAUNCHES for event in events),
        "kernels": len(counted),
        "waits": sum("Synchronize" in event.name for event in events),
        "busy_ms": round(sum(largest.values()) / 1000, 3),
        "largest_us": dict(largest.most_common(_LARGEST)),
    }


def _on_gpu(event: Any) -> bool:
    return str(event.device_type).endswith("CUDA")
