"""What preview, dry run and profile look at: real shards, and no image that somebody asked to have forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeler.config import Config, make_config
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.labeling.resolve import plan_input, resolve_job
from labeler.runs.erasure.excluded import Excluded, name_digest, write_excluded
from labeler.shards import Shard
from labeler.trial import sample
from labeler.trial.estimate import time_sample
from labeler.trial.preview import preview
from labeler.trial.sample import first_items, sample_items, wanted_items
from tests.inputs import image_bytes, tar_bytes
from tests.label_runs import write_run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two tars of three images; `b.png` is in both, and they are different images."""
    for shard in (0, 1):
        members = {name: image_bytes(10 * shard + n) for n, name in enumerate(("a.png", "b.png", "c.png"))}
        path = tmp_path / "in" / f"part-{shard}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tar_bytes(members))
    return path.parent


def config_of(source: Path, checkpoint: Path, *overrides: str) -> Config:
    values = {"input": str(source), "vocabulary": ["cat", "dog"], "model": {"name": str(checkpoint)}}
    return make_config(values | {"output": str(source.parent / "run")}, list(overrides))


def exclude(source: Path, *names: str) -> str:
    """An override that excludes these."""
    file = source.parent / "forgotten.txt"
    file.write_text("".join(f"{name}\n" for name in names))
    return f"input.exclude=[{file}]"


def sampled(config: Config) -> list[tuple[str, str]]:
    return sorted((shard_id, item.key) for shard_id, item in sample_items(config, plan_input(config), images=50))


def test_an_excluded_image_is_passed_over_and_another_shards_image_of_that_name_is_not(
    source: Path, checkpoint: Path
) -> None:
    everything = [(shard, name) for shard in ("000000", "000001") for name in ("a.png", "b.png", "c.png")]
    assert sampled(config_of(source, checkpoint)) == everything
    copied = digest_of(image_bytes(12))  # the second tar's c.png, by its bytes
    config = config_of(source, checkpoint, exclude(source, "part-0.tar/b.png", copied))
    left = [pair for pair in everything if pair not in {("000000", "b.png"), ("000001", "c.png")}]
    assert sampled(config) == left
    first = first_items(config, plan_input(config), images=50)
    assert sorted((shard_id, item.key) for shard_id, item in first) == left


def test_what_the_run_at_the_output_has_forgotten_is_passed_over(source: Path, checkpoint: Path) -> None:
    run = write_run(source.parent / "run", {})
    write_excluded(run, Excluded.of_digests({name_digest("part-1.tar/a.png")}))
    assert ("000001", "a.png") not in sampled(config_of(source, checkpoint))
    assert len(sampled(config_of(source, checkpoint))) == 5


def test_neither_preview_nor_dry_run_labels_what_is_excluded(source: Path, checkpoint: Path) -> None:
    job = resolve_job(config_of(source, checkpoint, exclude(source, "part-0.tar/a.png", "part-1.tar/b.png")))
    assert sum(preview(job, sample=50, threshold=0.3).statuses.values()) == 4
    assert time_sample(job, plan_input(job.config), images=50).images == 4


def test_an_input_that_is_excluded_as_a_whole_is_refused_by_that_reason(source: Path, checkpoint: Path) -> None:
    names = [f"part-{shard}.tar/{name}.png" for shard in (0, 1) for name in "abc"]
    config = config_of(source, checkpoint, exclude(source, *names))
    for take in (sample_items, first_items):
        with pytest.raises(Refused, match="is excluded"):
            take(config, plan_input(config), images=4)


def wanted(config: Config, *names: str, images: int = 50) -> list[str]:
    found = wanted_items(config, plan_input(config), set(names).__contains__, images=images)
    return sorted(f"{planned.shard.name}/{item.key}" if planned.shard.name else item.key for planned, item in found)


def test_only_wanted_images_are_sampled_spread_over_shards_and_none_that_is_excluded(
    source: Path, checkpoint: Path
) -> None:
    config = config_of(source, checkpoint, exclude(source, "part-1.tar/c.png"))
    names = ["part-0.tar/a.png", "part-0.tar/c.png", "part-1.tar/b.png", "part-1.tar/c.png", "a.png"]
    assert wanted(config, *names) == names[:3]
    assert [name.split("/")[0] for name in wanted(config, *names, images=2)] == ["part-0.tar", "part-1.tar"]
    assert len(wanted(config, *names, images=1)) == 1


def test_of_image_files_only_wanted_ones_are_read_wherever_they_are(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    for number in range(100):
        (folder / f"a/{number:03d}.png").write_bytes(image_bytes(1))
    (folder / "a/050.png").write_bytes(b"no image, and nobody asks")
    config = config_of(folder, checkpoint)
    assert wanted(config, "a/098.png", "a/099.png", "b/001.png") == ["a/098.png", "a/099.png"]
    everything = [f"a/{number:03d}.png" for number in range(100)]
    assert len(wanted(config, *everything, images=70)) == 70


def test_an_input_of_other_images_is_given_up_after_a_few_shards(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(25):
        (folder / f"{shard:02d}.tar").write_bytes(tar_bytes({"a.png": image_bytes(shard)}))
    read, opened = sample.read_shard, []

    def counting(config: Config, shard: Shard, **options: Any) -> Any:
        opened.append(shard.shard_id)
        return read(config, shard, **options)

    monkeypatch.setattr(sample, "read_shard", counting)
    config = config_of(folder, checkpoint)
    assert wanted(config, "other.png") == []
    assert len(set(opened)) == len(opened) == sample.LOOKED_AT
    opened.clear()
    assert len(wanted(config, *(f"{shard:02d}.tar/a.png" for shard in range(25)))) == 25
