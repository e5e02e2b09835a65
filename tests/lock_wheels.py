"""Which packages of a lock have no wheel for a platform: `python -m tests.lock_wheels pylock.toml`.

The file is what `uv pip compile --format pylock.toml` writes (PEP 751): it names every wheel that the index has.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import Marker, default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
GLIBC_MINOR = 28  # 2.28, which torch's wheels need
MACOS = (14, 0)  # which torch's wheels need
PLATFORMS = {
    "Linux x86-64": ("linux", "x86_64"),
    "Linux aarch64": ("linux", "aarch64"),
    "macOS arm64": ("darwin", "arm64"),
}


def main(arguments: list[str]) -> int:
    """Print every package without a wheel somewhere; return 1 if there is one, else 0."""
    packages = tomllib.loads(Path(arguments[0]).read_text())["packages"]
    missing = list(lines_without_wheel(packages))
    for line in missing:
        print(line)
    targets = f"{', '.join(PLATFORMS)}; Python {', '.join(f'{a}.{b}' for a, b in PYTHONS)}"
    print(f"{len(packages)} packages, {len(missing)} wheels missing ({targets})")
    return 1 if missing else 0


def lines_without_wheel(packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield one line per package, platform and Python for which its marker holds and no wheel is on the index."""
    for platform, (system, machine) in PLATFORMS.items():
        for python in PYTHONS:
            target = f"{platform}, Python {python[0]}.{python[1]}"
            environment = marker_environment(system, machine, python)
            tags = frozenset(wheel_tags(system, machine, python))
            for package in packages:
                if _applies(package, environment) and not _has_wheel(package, tags):
                    yield f"{package['name']}=={package['version']}: no wheel for {target}"


def marker_environment(system: str, machine: str, python: tuple[int, int]) -> Mapping[str, str]:
    """Return the values of environment markers under CPython on that platform."""
    version = f"{python[0]}.{python[1]}"
    return {
        **{name: str(value) for name, value in default_environment().items()},
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": system,
    }


def wheel_tags(system: str, machine: str, python: tuple[int, int]) -> Iterator[Tag]:
    """Yield the tags of the wheels that CPython installs there."""
    if system == "darwin":
        platforms = list(mac_platforms(MACOS, machine))
    else:
        names = [f"manylinux_2_{minor}" for minor in range(GLIBC_MINOR, 16, -1)]
        platforms = [f"{name}_{machine}" for name in (*names, "manylinux2014", "linux")]
        if machine == "x86_64":  # there, older standards have wheels, too
            older = [f"manylinux_2_{minor}" for minor in range(16, 4, -1)]
            platforms += [f"{name}_{machine}" for name in (*older, "manylinux2010", "manylinux1")]
    interpreter = f"cp{python[0]}{python[1]}"
    yield from cpython_tags(python, platforms=platforms)
    yield from compatible_tags(python, interpreter, platforms)


def _applies(package: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    return "marker" not in package or Marker(package["marker"]).evaluate(dict(environment))


def _has_wheel(package: Mapping[str, Any], tags: frozenset[Tag]) -> bool:
    """Return whether a wheel of the package carries one of the tags."""
    wheels = package.get("wheels", [])
    names = [wheel["name"] if "name" in wheel else wheel["url"].rsplit("/", 1)[1] for wheel in wheels]
    return any(parse_wheel_filename(name)[3] & tags for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
