"""deploy/Dockerfile: its instructions and what they name, and its RUN lines in an environment that has nothing yet."""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE = ROOT / "deploy" / "Dockerfile"
TARGETS = ("cpu", "cuda", "cpu-weights", "cuda-weights")
INSTRUCTIONS = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD", "LABEL", "SHELL"}
# Needs the system's package manager, or writes outside the image's own folders: noted, not run.
NOTED = ("apt-get", "useradd", "rm", "mkdir")
PACKAGES = {"ca-certificates", "procps", "rsync", "wget", "gcc", "libc6-dev"}  # of Debian


@dataclass
class Stage:
    """FROM and what follows it.

    Attributes:
        base: the stage or image that it begins with.
        steps: (instruction, its words as they stand).
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile; ValueError for what Docker would not take."""
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word not in INSTRUCTIONS:
            raise ValueError(f"unknown instruction {word}")
        if word == "FROM":
            match = re.fullmatch(r"(\S+) AS ([a-z-]+)", rest)
            if match is None:
                raise ValueError(f"FROM {rest}")
            current = found[match[2]] = Stage(match[2], match[1])
        elif current is not None:
            current.steps.append((word, rest))
        elif word != "ARG":
            raise ValueError(f"{word} before FROM")
    return found


def steps_of(text: str, target: str) -> list[tuple[str, str]]:
    """All instructions of a target, those of the stages below it first."""
    known = stages(text)
    stage = known[target]
    return [*(steps_of(text, stage.base) if stage.base in known else []), *stage.steps]


def problems(text: str) -> Iterator[str]:
    try:
        known = stages(text)
    except ValueError as error:
        yield str(error)
        return
    yield from (f"no target {target}" for target in TARGETS if target not in known)
    bases = {stage.base for stage in known.values()} - set(known)
    yield from (f"unknown base {base}" for base in bases if not base.startswith("python:${PYTHON_VERSION}-"))
    ignored = (FILE.parent / "Dockerfile.dockerignore").read_text().split()
    for target in set(TARGETS) & set(known):
        steps = steps_of(text, target)
        declared = {rest.partition("=")[0] for word, rest in steps if word == "ARG"}
        users = [rest for word, rest in steps if word == "USER"]
        if users[-1:] != ["labeler"]:
            yield f"{target} runs as {users[-1:] or 'root'}"
        for word, rest in steps:
            yield from (f"{target}: {name} is not declared" for name in variables(rest) if name not in declared)
            if word == "COPY":
                sources = [defaults(steps, source) for source in rest.split()[:-1]]
                lost = [each for each in sources if not (ROOT / each).exists() or each.split("/")[0] in ignored]
                yield from (f"{target}: no {source} to copy" for source in lost)
            elif word == "RUN":
                yield from (f"{target}: {problem}" for problem in of_run(rest))


def variables(rest: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+)", rest))


def defaults(steps: list[tuple[str, str]], text: str) -> str:
    values = dict(rest.partition("=")[::2] for word, rest in steps if word == "ARG")
    return string.Template(text).safe_substitute(values)


def of_run(line: str) -> Iterator[str]:
    done = subprocess.run(["sh", "-n"], input=line, capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stderr
    if "pip install" in line and "-c requirements.lock" not in line:
        yield f"not in the lock's versions: {line}"
    for words in re.findall(r"apt-get install ([^&]*)", line):
        yield from (f"unknown package {w}" for w in words.split() if not w.startswith("-") and w not in PACKAGES)


def test_the_file_is_what_docker_takes() -> None:
    assert list(problems(FILE.read_text())) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("RUN useradd", "RUM useradd"),
        ("FROM base AS cuda", "FROM bass AS cuda"),
        ("FROM base AS cpu", "FROM base A cpu"),
        ("USER labeler", "USER root"),
        ("COPY jobs jobs", "COPY job jobs"),
        ("COPY ${WEIGHTS} /weights/", "COPY ${WEIGHT} /weights/"),
        ("models/shapes\nCOPY", "models/shape\nCOPY"),
        ("pip install -c requirements.lock .", "pip install ."),
        ("COPY jobs jobs", "COPY tests tests"),
        ("gcc libc6-dev", "gcc libc6-def"),
        ("&& mkdir -p /weights", "&& (mkdir -p /weights"),
    ],
)
def test_a_broken_file_is_not(right: str, wrong: str) -> None:
    assert right in FILE.read_text()
    assert list(problems(FILE.read_text().replace(right, wrong, 1)))


@pytest.mark.slow  # minutes: everything of the lock is installed
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_its_run_lines_make_an_environment_that_labels(target: str, tmp_path: Path) -> None:
    image = Image(tmp_path)
    for word, rest in steps_of(FILE.read_text(), target):
        image.do(word, rest)
    assert "apt-get update" in image.noted
    assert "useradd --create-home --uid 1000 labeler" in image.noted
    label = ["-m", "labeler", "label", "c.yaml"]
    (tmp_path / "home").mkdir()
    shutil.copytree(ROOT / "models" / "shapes", tmp_path / "home" / "weights")
    (tmp_path / "home" / "c.yaml").write_text(
        "{input: data/shards, output: run, vocabulary: data/vocabulary.txt, model: {name: weights}, "
        "ray: {cpus_per_worker: 1}}"
    )
    draw = "from labeler.training import shapes; shapes.write_data_set('data', images=4, seed=7, images_per_shard=2)"
    for words in (["-m", "pip", "check"], ["-c", draw], label):
        done = image.run(["python", *words], tmp_path / "home")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "complete: 4 images" in done.stdout
    locked = (ROOT / "requirements.lock").read_text()
    for name in ("ray", "torch", "transformers"):
        (expected,) = re.findall(rf"^{name}==(\S+)", locked, re.MULTILINE)
        shown = image.run(
            ["python", "-c", f"from importlib.metadata import version; print(version('{name}'))"], tmp_path
        )
        assert shown.stdout.strip().partition("+")[0] == expected


class Image:
    """A folder that stands for an image: a new Python environment, and the files that are copied."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=True)
        self.root, self.notes, commands = folder / "image", folder / "notes", folder / "commands"
        self.root.mkdir()
        commands.mkdir()
        for name in NOTED:
            (commands / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {self.notes}\n')
            (commands / name).chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
        self.environment = {**kept, "PATH": f"{commands}:{folder}/env/bin:/usr/bin:/bin"}

    @property
    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def do(self, word: str, rest: str) -> None:
        """One instruction; CPU wheels come from where this machine's pip finds them."""
        if word == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "ARG":
            name, _, value = rest.partition("=")
            self.environment[name] = "" if name == "TORCH_INDEX" else value
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                into = self.root / (target if target != "./" else source)
                (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, into)
        elif word == "RUN":
            done = self.run(["sh", "-ec", rest], self.root)
            assert done.returncode == 0, rest + done.stdout + done.stderr

    def run(self, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=1500, check=False
        )


def test_its_python_is_one_that_the_package_takes() -> None:
    (version,) = re.findall(r"^ARG PYTHON_VERSION=(\S+)$", FILE.read_text(), re.MULTILINE)
    assert version == ".".join(map(str, sys.version_info[:2])), "the tests ran with another"
