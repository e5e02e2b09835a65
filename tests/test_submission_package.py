"""What travels with a submitted job: what `ray job submit` sends of the same folder, the config, and labeler."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from labeler.config import make_config
from labeler.errors import Refused
from labeler.submission import package as module
from labeler.submission.package import collect, require_reachable

ROOT = Path(__file__).parent.parent
VALUES = {"input": "s3://b/in", "output": "s3://b/out", "vocabulary": ["cat"], "model": {"name": "org/model"}}


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def sent_by_ray(folder: Path, target: Path) -> set[str]:
    """What `ray job submit --working-dir FOLDER` sends."""
    create_package(
        str(folder), target, include_gitignore=True, excludes=get_runtime_env_default_excludes(), logger=logging.root
    )
    with zipfile.ZipFile(target) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_a_clone_sends_what_ray_sends_of_it_and_neither_tests_docs_nor_models(tmp_path: Path) -> None:
    package = collect(ROOT, ROOT / "configs" / "demo.yaml")
    assert package.config == "configs/demo.yaml"
    assert set(package.files) == sent_by_ray(ROOT, tmp_path / "ray.zip")
    tops = {name.split("/")[0] for name in package.files}
    assert {"labeler", "jobs", "configs", "examples", "pyproject.toml", "requirements.lock"} <= tops
    assert not tops & {"tests", "docs", "models", "benchmarks", "deploy", ".git", ".venv", ".ci", "demo"}
    package.write(tmp_path / "own.zip")
    assert (tmp_path / "own.zip").stat().st_size < 3_000_000


def test_a_folder_without_labeler_takes_this_one_along_and_the_config_from_elsewhere(tmp_path: Path) -> None:
    folder = write(tmp_path / "work" / "names.txt").parent
    write(folder / "mine.yaml", "of the folder")
    config = write(tmp_path / "elsewhere" / "mine.yaml", "of elsewhere")
    package = collect(folder, config)
    assert package.files[package.config].read_text() == "of elsewhere"
    assert package.config == "submitted-mine.yaml"
    own = {name for name in sent_by_ray(ROOT, tmp_path / "ray.zip") if name.startswith("labeler/")}
    assert set(package.files) == own | {"names.txt", "mine.yaml", "submitted-mine.yaml"}


def test_a_config_in_the_folder_keeps_its_place_though_it_is_a_link(tmp_path: Path) -> None:
    config = write(tmp_path / "configs" / "a.yaml")
    (tmp_path / "link").symlink_to(tmp_path / "configs")
    assert collect(tmp_path, config).config in ("configs/a.yaml", "link/a.yaml")
    assert collect(tmp_path, tmp_path / "link" / "a.yaml").config in ("configs/a.yaml", "link/a.yaml")


def test_equal_files_make_equal_bytes_so_that_they_are_uploaded_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        script = write(tmp_path / name / "run.sh")
        script.chmod(0o755)
        write(tmp_path / name / "c.yaml")
        collect(script.parent, script.parent / "c.yaml").write(tmp_path / f"{name}.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.getinfo("run.sh").external_attr >> 16 == 0o100755


def test_a_folder_of_data_is_refused_by_the_name_of_what_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 5 << 20)
    config = write(tmp_path / "c.yaml")
    write(tmp_path / "photos" / "deep" / "a.bin", "x" * (6 << 20))
    with pytest.raises(Refused, match=r"more than 5 MiB to send \(photos 6 MB.*\.rayignore"):
        collect(tmp_path, config)
    write(tmp_path / ".rayignore", "photos\n")
    assert "c.yaml" in collect(tmp_path, config).files


def test_a_folder_or_a_config_that_is_none_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml")
    with pytest.raises(Refused, match=r"--working-dir .*/none is not a folder"):
        collect(tmp_path / "none", config)
    with pytest.raises(Refused, match="is not a file, and cannot travel"):
        collect(tmp_path, tmp_path)


@pytest.mark.parametrize("key", ["input", "output"])
def test_a_relative_input_or_output_is_refused_as_the_folder_of_a_job_is_lost(tmp_path: Path, key: str) -> None:
    package = collect(tmp_path, write(tmp_path / "c.yaml"))
    for path in ("demo/run", "file://demo/run"):
        with pytest.raises(Refused, match=f"{key} {path} is a relative path.*object storage"):
            require_reachable(make_config({**VALUES, key: path}), tmp_path, package)
    for path in ("s3://b/x", "/shared/x", "~/x"):
        require_reachable(make_config({**VALUES, key: path}), tmp_path, package)


def test_a_model_or_vocabulary_that_stays_at_home_is_refused(tmp_path: Path) -> None:
    write(tmp_path / ".rayignore", "/models\n")
    write(tmp_path / "models" / "shapes" / "config.json")
    write(tmp_path / "names.txt")
    outside = write(tmp_path.parent / "outside.txt")
    package = collect(tmp_path, write(tmp_path / "c.yaml"))
    require_reachable(make_config({**VALUES, "vocabulary": "./names.txt"}), tmp_path, package)
    require_reachable(make_config({**VALUES, "vocabulary": "coco"}), tmp_path, package)
    with pytest.raises(Refused, match=r"model\.name models/shapes does not travel with the job.*\.rayignore"):
        require_reachable(make_config({**VALUES, "model": {"name": "models/shapes"}}), tmp_path, package)
    with pytest.raises(Refused, match=r"vocabulary \.\./outside\.txt does not travel"):
        require_reachable(make_config({**VALUES, "vocabulary": f"../{outside.name}"}), tmp_path, package)
    with pytest.raises(Refused, match=r"masks\.model models does not travel"):
        require_reachable(make_config({**VALUES, "masks": {"model": "models"}}), tmp_path, package)


def test_files_that_usually_hold_credentials_stay_at_home(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    for name in ("c.yaml", "mine.py", ".env", ".netrc", ".aws/credentials", "deep/.ssh/id_ed25519"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sent = {name for name in collect(tmp_path, config).files if not name.startswith("labeler/")}
    assert sent == {"c.yaml", "mine.py"}


def test_a_file_that_is_gone_before_it_is_sent_is_one_line(tmp_path: Path) -> None:
    config, gone = tmp_path / "c.yaml", tmp_path / "gone.py"
    config.write_text("a: 1")
    gone.write_text("")
    package = collect(tmp_path, config)
    gone.unlink()
    assert "files" in str(package)
    with pytest.raises(Refused, match=r"gone\.py cannot be sent: No such file or directory; name it in \.rayignore"):
        package.write(tmp_path / "package.zip")
