"""How the process of a command ends: with the command's own exit code, after all that is registered has run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from labeler.commands.help import COMMANDS
from tests import exit_codes
from tests.label_runs import row, write_run

ROOT = Path(__file__).parent.parent

# `main` is replaced by a body of the test's own; all else is the real process of a command.
PROGRAM = """
import labeler.__main__ as process

def main(argv):
    {body}

import labeler.cli
labeler.cli.main = main
process.run("verb")
"""

# A thread of Arrow is inside Python when the command is done, and wants back into it again and again.
ARROW = """
    import io, threading, time
    import pyarrow as pa, pyarrow.parquet as pq
    buffer, inside = io.BytesIO(), threading.Event()
    pq.write_table(pa.table({"a": [1, 2, 3]}), buffer)

    class File(io.BytesIO):
        def read(self, *size):
            while reading and threading.current_thread() is not thread:
                inside.set()
                time.sleep(0.001)
            return super().read(*size)

    def read():
        file = pq.ParquetFile(File(buffer.getvalue()), pre_buffer=True)
        reading.append(True)
        file.read()

    reading = []
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert inside.wait(300)
    return CODE
"""

# Each line is written by something that Python runs, joins or flushes when a process ends.
PROMISES = r"""
    import atexit, multiprocessing, sys, tempfile, threading
    from concurrent.futures import ThreadPoolExecutor
    gate = threading.Event()
    folder = tempfile.TemporaryDirectory(dir=".")
    atexit.register(sys.stdout.write, "callback\n")
    threading.Thread(target=lambda: (gate.wait(), sys.stdout.write("thread\n"))).start()
    ThreadPoolExecutor(1).submit(lambda: (gate.wait(), sys.stdout.write("pool\n")))
    multiprocessing.get_context("fork").Process(target=lambda: open("child", "w").write("child")).start()
    threading.Timer(0.1, gate.set).start()
    sys.stdout.write("x" * 1_000_000)
    return 1
"""


def ended(body: str, folder: Path, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.replace("{body}", body.strip().replace("CODE", str(code)))
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=exit_codes.environment(), check=False
    )


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_thread_of_arrow_does_not_change_the_exit_code(code: int, tmp_path: Path) -> None:
    done = ended(ARROW, tmp_path, code=code)
    assert (done.returncode, done.stderr) == (code, "")


def test_nothing_is_lost_at_the_end(tmp_path: Path) -> None:
    done = ended(PROMISES, tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    text = done.stdout.replace("x" * 1_000_000, "")
    assert sorted(text.split()) == ["callback", "pool", "thread"]
    assert text.endswith("callback\n"), "threads are joined before callbacks are called"
    assert [path.name for path in tmp_path.iterdir()] == ["child"], "the child was joined, the temporary folder removed"


def test_a_traceback_ends_with_1(tmp_path: Path) -> None:
    done = ended("raise LookupError('what')", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("LookupError: what\n")


def test_output_that_nobody_takes_ends_as_python_ends(tmp_path: Path) -> None:
    """Exit code 120, not 0, and never a hang."""
    program = PROGRAM.replace("{body}", "print('x'); return 0")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**exit_codes.environment(), "PYTHONUNBUFFERED": ""}, check=False,
        )  # fmt: skip
    assert done.returncode == 120
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["status", "--help"], 0), (["status"], 2), (["status", "nowhere"], 2)]
)
def test_module_and_job_end_with_the_code_of_the_command(words: Sequence[str], code: int) -> None:
    modules = [["labeler", *words]] + ([[f"jobs.{words[0]}", *words[1:]]] if words[0] == "status" else [])
    for module in modules:
        done = subprocess.run([sys.executable, "-m", *module], capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_every_entry_ends_its_process_in_the_same_way() -> None:
    assert 'labeler = "labeler.__main__:run"' in (ROOT / "pyproject.toml").read_text()
    for verb in COMMANDS:
        assert re.search(rf'^    run\("{verb}"\)$', (ROOT / "jobs" / f"{verb}.py").read_text(), re.MULTILINE)


def test_exit_codes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", {(0, 0): [row(0)]})
    assert exit_codes.main(["--runs", "2", "status", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.endswith(
        "labeler status RUN: exit code 0 2 times\n".replace("RUN", str(tmp_path / "run"))
    )
    assert exit_codes.main(["--runs", "1", "status", str(tmp_path)]) == 1
    assert "exit code 2 1 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("sys.version_info = (3, 10, 4)", "labeler needs Python 3.11 or newer, {python} is Python 3.10"),
        ("sys.modules['rich.console'] = None", "package rich.console is missing in the Python {python}; install"),
        ("sys.modules['ray'] = None", "package ray is missing in the Python {python}; install"),
    ],
)
def test_a_python_that_cannot_run_labeler_is_one_line(before: str, expected: str, tmp_path: Path) -> None:
    """On a cluster it is another than the user's own."""
    program = f"import sys; {before}; from labeler.__main__ import run; run('submit')"
    config = tmp_path / "c.yaml"
    config.write_text("{input: s3://b/i, output: s3://b/o, vocabulary: [cat], model: {name: a/b}}")
    command = [sys.executable, "-c", program, str(config), "--address", "h:1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"labeler: {expected.format(python=sys.executable)}")
    assert done.returncode == 2
