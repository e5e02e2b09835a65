from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from labeler.errors import InputChanged, Refused
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, open_run, read_plan, read_progress
from labeler.runs.create import NewRun, create_run, extend_plan, require_free_or_ours
from labeler.runs.manifest import Manifest
from labeler.runs.plan import PlannedShard, with_members
from labeler.shards import Member, Shard
from labeler.storage import StorageError
from labeler.vocabulary import Vocabulary

CONFIG = {"input": {"keep": []}}


def new_run(*uris: str, **fields: object) -> NewRun:
    plan = [PlannedShard(Shard(f"{i:06d}", uri, 10, "e", "webdataset"), None) for i, uri in enumerate(uris)]
    return NewRun(fields, CONFIG, {}, Vocabulary.load(["cat"]), Prompts((), frozenset(), 256), plan)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    assert open_run(str(tmp_path)) is None
    assert open_run(str(tmp_path / "missing")) is None


def test_a_new_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    created = create_run(str(tmp_path), new_run("s3://b/a.tar", "s3://b/b.tar", floor=0.1))
    run = open_run(str(tmp_path))
    assert run == created
    assert [p.shard.uri for p in read_plan(created)] == ["s3://b/a.tar", "s3://b/b.tar"]
    assert created.vocabulary() == Vocabulary.load(["cat"])
    assert files_of(tmp_path) == {"run.json", "vocabulary.json", "prompts.json", "plan/00000.parquet"}


def test_of_many_jobs_at_once_one_creates_the_run_and_the_others_adopt_it(tmp_path: Path) -> None:
    runs: list[Run] = []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        require_free_or_ours(str(tmp_path / "out"))
        runs.append(create_run(str(tmp_path / "out"), new_run("s3://b/a.tar", floor=0.1)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 8
    assert len({run.manifest.run_id for run in runs}) == 1


def test_a_race_lost_to_another_labeling_is_refused_by_field(tmp_path: Path) -> None:
    create_run(str(tmp_path), new_run("s3://b/a.tar", floor=0.1))
    with pytest.raises(Refused, match="another fingerprint") as refused:
        create_run(str(tmp_path), new_run("s3://b/a.tar", floor=0.2))
    assert refused.value.problems == ("floor: the run has 0.1, the config gives 0.2",)


def test_a_job_killed_while_creating_is_completed_by_the_same_command(tmp_path: Path) -> None:
    new = new_run("s3://b/a.tar", floor=0.1)
    create_run(str(tmp_path), new)
    (tmp_path / "run.json").unlink()
    require_free_or_ours(str(tmp_path))
    assert create_run(str(tmp_path), new).manifest.fingerprint_fields == {"floor": 0.1}


def test_other_versions_of_what_decides_rows_are_named(tmp_path: Path) -> None:
    new = dataclasses.replace(new_run("s3://b/a.tar"), versions={"torch": "2.1", "pillow": "13.0", "ray": "2.60"})
    run = create_run(str(tmp_path), new)
    assert run.changed_versions({"torch": "2.1", "pillow": "13.0", "ray": "2.61"}) == ""
    assert run.changed_versions({"torch": "2.2", "pillow": "14.0"}) == "pillow 13.0 (now 14.0), torch 2.1 (now 2.2)"


def test_a_half_created_run_over_something_else_is_refused(tmp_path: Path) -> None:
    create_run(str(tmp_path), new_run("s3://b/a.tar"))
    (tmp_path / "run.json").unlink()
    with pytest.raises(Refused, match=r"half-created run of something else \(its plan/00000.parquet differs"):
        create_run(str(tmp_path), new_run("s3://b/other.tar"))


def test_a_folder_of_labels_that_is_no_run_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").touch()
    with pytest.raises(Refused, match=r"not empty and not a labeler run \(found labels/0.txt\)"):
        require_free_or_ours(str(tmp_path))


def test_frozen_members_come_back_in_their_order(tmp_path: Path) -> None:
    members = (Member("b.png", "s3://b/b.png", 3, "x"), Member("a.png", "s3://b/a.png", None, None))
    shard = Shard("000000", "s3://b", 3, None, "images", members=members)
    new = dataclasses.replace(new_run(), plan=[PlannedShard(shard, 2)])
    run = create_run(str(tmp_path), new)
    (planned,) = read_plan(run)
    assert planned.shard.members is None
    assert with_members(planned.shard, run.uri).members == members


def test_an_extension_is_a_generation_of_its_own(tmp_path: Path) -> None:
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    extend_plan(run, [])
    assert "plan/00001.parquet" not in files_of(tmp_path)
    extend_plan(run, [PlannedShard(Shard("000001", "s3://b/b.tar", 1, "f", "webdataset"), None)])
    assert [p.shard_id for p in read_plan(run)] == ["000000", "000001"]


def grouped(*names: str) -> PlannedShard:
    members = tuple(Member(name, f"s3://b/{name}", 10, "e") for name in names)
    return PlannedShard(Shard("000001", "s3://b/", None, None, "images", members=members), len(members))


def test_of_two_extensions_at_once_the_second_is_refused_and_no_image_is_planned_twice(tmp_path: Path) -> None:
    """Both listed the input when the plan had one generation, and numbered what was new after it."""
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    extend_plan(run, [grouped("1.png", "2.png")], generation=1)
    with pytest.raises(Refused, match="another job extended"):
        extend_plan(run, [grouped("1.png", "2.png", "3.png")], generation=1)
    _, added = read_plan(run)
    assert [member.key for member in with_members(added.shard, run.uri).members or ()] == ["1.png", "2.png"]


def test_what_an_extension_that_was_killed_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    """Its groups are written before the plan; by the next try there are more images."""
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    extend_plan(run, [grouped("1.png")], generation=1)
    (tmp_path / "plan" / "00001.parquet").unlink()
    extend_plan(run, [grouped("1.png", "2.png")], generation=1)
    _, added = read_plan(run)
    assert len(with_members(added.shard, run.uri).members or ()) == 2


def test_groups_of_runs_from_before_they_were_named_by_digest_are_read(tmp_path: Path) -> None:
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    extend_plan(run, [grouped("1.png")])
    (group,) = (tmp_path / "groups").iterdir()
    group.rename(tmp_path / "groups" / "000001.parquet")
    _, added = read_plan(run)
    assert len(with_members(added.shard, run.uri).members or ()) == 1


def test_the_run_of_a_faster_job_over_another_input_is_not_taken(tmp_path: Path) -> None:
    """Its fingerprint says nothing of the input."""
    create_run(str(tmp_path), dataclasses.replace(new_run("s3://b/a.tar"), config={"input": {"uri": "s3://b"}}))
    other = dataclasses.replace(new_run("s3://c/a.tar"), config={"input": {"uri": "s3://c"}})
    with pytest.raises(Refused, match=r"holds a run with a different input.uri \(run: 's3://b', config: 's3://c'\)"):
        create_run(str(tmp_path), other)


def test_a_shard_is_finished_with_its_marker_and_as_many_units_as_it_says(tmp_path: Path) -> None:
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    plan = read_plan(run)

    def finished() -> bool:
        return not read_progress(run).left(plan)

    for name in ("labels/000000", "shards"):
        (tmp_path / name).mkdir(parents=True)
    assert not finished()
    (tmp_path / "shards" / "000000-2-7").touch()
    (tmp_path / "labels" / "000000" / "000000.parquet").touch()
    assert not finished()
    assert read_progress(run).images_per_shard(plan) == {"000000": 7}
    (tmp_path / "labels" / "000000" / "000001.parquet").touch()
    assert finished()


def test_two_end_markers_that_disagree_name_the_shard(tmp_path: Path) -> None:
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    (tmp_path / "shards").mkdir()
    for name in ("000000-2-7", "000000-3-9"):
        (tmp_path / "shards" / name).touch()
    with pytest.raises(InputChanged, match=r"shard 000000.*ended twice"):
        read_progress(run)


def test_an_edited_vocabulary_file_is_refused(tmp_path: Path) -> None:
    run = create_run(str(tmp_path), new_run("s3://b/a.tar"))
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(Refused, match="was changed after the run was created"):
        run.vocabulary()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "odd": 2}'])
def test_a_manifest_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Manifest.from_json(text.encode(), uri="s3://b/run")


def test_a_damaged_plan_is_one_line_and_never_another_plan(tmp_path: Path) -> None:
    members = tuple(Member(f"{n}.jpg", f"s3://b/{n}.jpg", 10, "e") for n in range(20))
    plan = [PlannedShard(Shard("000000", "s3://b/", None, None, "images", members=members), 20)]
    run = create_run(str(tmp_path), dataclasses.replace(new_run(), plan=plan))
    (planned,) = read_plan(run)
    assert with_members(planned.shard, run.uri).members == members
    (group,) = (tmp_path / "groups").iterdir()
    for name in ("plan/00000.parquet", f"groups/{group.name}"):
        whole = (tmp_path / name).read_bytes()
        refused = 0
        for position in range(0, len(whole), 23):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            (tmp_path / name).write_bytes(bytes(damaged))
            try:
                (found,) = read_plan(run)
                assert with_members(found.shard, run.uri).members == members
            except StorageError as error:
                refused += 1
                said = str(error)
            else:
                assert found == planned
        assert refused > 0.5 * len(whole) / 23
        assert f"{name} is damaged" in said
        assert "\n" not in said
        (tmp_path / name).write_bytes(whole)
