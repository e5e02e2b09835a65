"""The GPU kernels without a GPU: run in triton's interpreter, and compiled for the GPUs that they are made for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
# One case of each kernel is for `make test`; the others differ in numbers alone.
CASES = [
    pytest.param(capability, dtype, marks=[] if (capability, dtype) == (90, "fp16") else [pytest.mark.slow])
    for capability in (80, 90)
    for dtype in ("fp16", "bf16", "fp32")
]


@pytest.mark.parametrize("part", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_equal_the_references_in_the_interpreter(part):
    here = Path(__file__).parent
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-m", part, str(here / "kernels_in_interpreter.py")]
    done = subprocess.run(command, cwd=here.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_no_kernel_is_built_anew_for_another_number_of_rows():
    """68 shapes of photographs are 68 numbers of positions: a build for each multiple of 16 costs seconds."""
    from labeler.detectors.grounding_dino.fast import combine_triton, sampling_triton, softmax_triton

    varying = {
        combine_triton.combine_kernel: {"rows", "position_rows"},
        sampling_triton.sample_kernel: {"queries", "positions", "reference_stride"},
        softmax_triton.over_tokens_kernel: {"positions"},
        softmax_triton.over_positions_kernel: {"positions"},
    }
    for kernel, names in varying.items():
        assert {each.name for each in kernel.params if each.do_not_specialize} == names


def in_registers(kernel, types, constants, folder, capability, multiples=()):
    from tests.gpu_code import compiled

    code = compiled(kernel, types, constants, folder, capability=capability, multiples=multiples)
    assert code.stack == 0, code
    assert code.registers <= 128, code  # so that a multiprocessor holds at least 16 warps
    assert code.widest == 128, code


@pytest.mark.parametrize(("capability", "dtype"), CASES)
@pytest.mark.parametrize("sides", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_sampling_compiles_to_code_that_keeps_all_in_registers(tmp_path, capability, dtype, sides):
    """At the published models' size. Unrolled over its 64 corners it took 255 registers and 1.1 to 1.9 kB of stack."""
    from labeler.detectors.grounding_dino.fast import sampling_triton as ours

    types = dict.fromkeys(("values", "raw", "out"), f"*{dtype}")
    types |= dict.fromkeys(("references", "level_widths", "level_heights"), "*fp32")
    types |= {"level_starts": "*i32", "queries": "i32", "positions": "i32", "reference_stride": "i32"}
    sizes = {"heads": 8, "samples": 16, "points": 4, "width": 32, "sides": sides, "block": ours._QUERIES}
    in_registers(ours.sample_kernel, types, sizes, tmp_path, capability)


@pytest.mark.parametrize(("capability", "dtype"), CASES)
def test_residuals_and_norms_compile_to_code_that_keeps_all_in_registers(tmp_path, capability, dtype):
    from labeler.detectors.grounding_dino.fast import combine_triton as ours

    types = dict.fromkeys(("moved", "product", "placed"), f"*{dtype}")
    vectors = ("first_weight", "first_bias", "second_weight", "second_bias")
    types |= dict.fromkeys(("full", "position", "out", *vectors), "*fp32")
    types |= {"rows": "i32", "position_rows": "i32", "first_eps": "fp32", "second_eps": "fp32"}
    flags = {"norms": 2, "has_product": dtype != "fp32", "has_position": True}
    sizes = {"width": 256, "channels": 256, "block": ours._ROWS, **flags}
    in_registers(ours.combine_kernel, types, sizes, tmp_path, capability)


@pytest.mark.parametrize(("capability", "dtype"), CASES)
def test_both_softmaxes_compile_to_code_that_keeps_all_in_registers(tmp_path, capability, dtype):
    from labeler.detectors.grounding_dino.fast import softmax_triton as ours

    sizes = {"rows": ours._ROWS, "turns": ours._TURNS, "block": 256}
    first = {
        "scores": f"*{dtype}",
        "bias": f"*{dtype}",
        "over_tokens": f"*{dtype}",
        "highest": "*fp32",
        "positions": "i32",
        "tokens": "i32",
    }
    in_registers(ours.over_tokens_kernel, first, {**sizes, "heads": 4}, tmp_path, capability, ("tokens",))
    second = {"scores": f"*{dtype}", "highest": "*fp32", "sums": "*fp32", "positions": "i32", "columns": "i32"}
    in_registers(ours.over_positions_kernel, second, sizes, tmp_path, capability, ("columns",))
