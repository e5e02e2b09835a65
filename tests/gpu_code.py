"""Triton kernels compiled for a GPU that need not be there, and what the machine code says of itself."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@dataclass(frozen=True)
class GpuCode:
    """Machine code of one kernel.

    Attributes:
        registers: of a thread.
        stack: bytes of a thread's own memory: what had no room in registers.
        widest: bits of the widest access to the device's memory.
    """

    registers: int
    stack: int
    widest: int


def compiled(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    folder: Path,
    *,
    capability: int,
    multiples: tuple[str, ...] = (),
) -> GpuCode:
    """A kernel, compiled.

    Args:
        types: of its arguments, as triton writes them ("*fp16", "i32"); pointers are multiples of 16.
        constants: its constexpr arguments.
        folder: for the code.
        capability: of the GPU: 80 for an A100, 90 for an H100 or H200.
        multiples: integer arguments that are multiples of 16, which triton sees by itself where it runs.
    """
    names = kernel.arg_names
    assert set(names) == set(types) | set(constants)
    signature = {name: types.get(name, "constexpr") for name in names}
    whole = {name for name in names if signature[name].startswith("*") or name in multiples}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in whole}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    target = GPUTarget("cuda", capability, 32)
    found = triton.compile(source, target=target, options={"enable_fp_fusion": True})
    file = folder / "kernel.cubin"
    file.write_bytes(found.asm["cubin"])
    usage = _tool("cuobjdump", "--dump-resource-usage", str(file))
    accesses = re.findall(r"(?:LDG|STG)\S*\.(64|128)\b", _tool("nvdisasm", "-c", str(file)))
    numbers = (int(re.findall(rf"\b{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    return GpuCode(*numbers, max(map(int, accesses), default=32))


def _tool(name: str, *arguments: str) -> str:
    """One of NVIDIA's tools that triton brings along."""
    path = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", name)
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout
