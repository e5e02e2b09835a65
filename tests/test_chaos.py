"""Chaos: a job on a cluster of several nodes, killed in every way that a spot machine knows. `make chaos` runs it.

Each test prints a line with what it did and found; docs/explanation/guarantees.md shows those lines.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeler.runs import read_unit_file
from tests.chaos_cluster import (
    POISON_WIDTH,
    ChaosCluster,
    Job,
    killing,
    require_exact,
    wait_for,
    write_images,
)
from tests.processes import ray_processes
from tests.small_disk import small_disk

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

WORKERS = 3
DETECTING = ("LabelUnits",)  # Ray titles its processes by what they run
READING = ("Units",)


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[ChaosCluster]:
    cluster = ChaosCluster(WORKERS)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: ChaosCluster) -> Iterator[ChaosCluster]:
    yield shared_cluster
    shared_cluster.restore(WORKERS)


def say(job: Job, images: int, what: str, started: float) -> None:
    again = job.detected() / images - 1
    print(f"\n{what}: {images:,} images, {images:,} rows; {again:.1%} detected again; {time.time() - started:.0f} s")


def test_a_driver_killed_at_ten_random_moments(tmp_path: Path, checkpoint: Path, cluster: ChaosCluster) -> None:
    images, started, rng = write_images(tmp_path, shards=20, images=100), time.time(), random.Random(1)
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.1})
    for _ in range(10):
        process, before = job.start(), job.units_committed()
        if rng.random() < 0.7:  # mostly while it works, sometimes while it starts
            wait_for(lambda before=before: job.units_committed() > before, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 5))
        assert process.poll() is None, "finished too early to be killed ten times"
        process.kill()
        process.wait()
    job.finish()
    require_exact(job, images, {"labeled": images})
    say(job, images, "driver killed 10 times", started)


def test_two_percent_of_detector_calls_kill_their_process(
    tmp_path: Path, checkpoint: Path, cluster: ChaosCluster
) -> None:
    images, started = write_images(tmp_path, shards=10, images=100), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"die_rate": 0.02})
    job.finish()
    require_exact(job, images, {"labeled": images})
    say(job, images, "2% of detector calls killed their process", started)


def test_read_and_write_tasks_are_killed(tmp_path: Path, checkpoint: Path, cluster: ChaosCluster) -> None:
    images, started = write_images(tmp_path, shards=20, images=100), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.05})
    with killing(4, lambda: ray_processes(*DETECTING, *READING), seed=3) as killed:
        job.finish()
    require_exact(job, images, {"labeled": images})
    say(job, images, f"{len(killed)} reading, detecting and committing processes killed", started)


def test_two_of_three_nodes_are_lost(tmp_path: Path, checkpoint: Path, cluster: ChaosCluster) -> None:
    images, started = write_images(tmp_path, shards=20, images=100), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.1})
    process = job.start()
    for committed in (6, 14):
        wait_for(lambda committed=committed: job.units_committed() >= committed, process)  # type: ignore[misc]
        cluster.kill_node()
    assert process.wait(timeout=500) == 0, (tmp_path / "job.err").read_text()[-2000:]
    require_exact(job, images, {"labeled": images})
    say(job, images, "2 of 3 nodes lost", started)


def test_five_poisonous_images_among_two_thousand(tmp_path: Path, checkpoint: Path, cluster: ChaosCluster) -> None:
    poison = frozenset(random.Random(5).sample(range(2000), 5))
    images, started = write_images(tmp_path, shards=20, images=100, poison=poison), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"die_on_width": POISON_WIDTH})
    job.finish()
    require_exact(job, images, {"labeled": images - 5, "quarantined": 5})
    guilty = {row["image_key"] for row in job.rows() if row["status"] == "quarantined"}
    assert guilty == {f"{n:05d}.png" for n in poison}
    say(job, images, "5 crashing images: exactly those 5 quarantined", started)


def test_ten_preemptions_of_one_unit_make_nobody_guilty(
    tmp_path: Path, checkpoint: Path, cluster: ChaosCluster
) -> None:
    images, started = write_images(tmp_path, shards=1, images=16), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.5})
    process = job.start()
    for taken in range(10):
        before = job.detected()
        wait_for(lambda before=before: job.detected() > before, process)  # type: ignore[misc]
        victims = ray_processes(*DETECTING, "_label_suspect")
        assert victims, f"nothing left to take after {taken} times"
        with killing(0.01, lambda victims=victims: victims, seed=taken) as killed:  # type: ignore[misc]
            wait_for(lambda killed=killed: bool(killed), process)  # type: ignore[misc]
    assert process.wait(timeout=500) == 0, (tmp_path / "job.err").read_text()[-2000:]
    require_exact(job, images, {"labeled": images})
    say(job, images, "one unit preempted 10 times: nothing quarantined", started)


def test_a_node_where_workers_cannot_start_does_not_end_the_job(
    tmp_path: Path, checkpoint: Path, cluster: ChaosCluster
) -> None:
    images, started = write_images(tmp_path, shards=10, images=100), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.1, "broken_node": cluster.nodes[0].node_id})
    job.finish()
    require_exact(job, images, {"labeled": images})
    say(job, images, "workers cannot start on 1 of 3 nodes", started)


def test_two_jobs_on_one_run(tmp_path: Path, checkpoint: Path, cluster: ChaosCluster) -> None:
    images, started = write_images(tmp_path, shards=20, images=100), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.05}, {"ray": {
        "address": cluster.address, "cpus_per_worker": 1, "workers": 1, "start_timeout_s": 120}})  # fmt: skip
    both = [job.start("one"), job.start("two")]
    assert [process.wait(timeout=500) for process in both] == [0, 0]
    require_exact(job, images, {"labeled": images})
    say(job, images, "two jobs at the same time", started)


def test_a_disk_that_is_read_only_full_and_read_only_again(
    tmp_path: Path, checkpoint: Path, cluster: ChaosCluster
) -> None:
    images, started = write_images(tmp_path, shards=10, images=100), time.time()
    job = Job(tmp_path, checkpoint, cluster.address, {"seconds": 0.05})
    errors = tmp_path / "job.err"
    with small_disk(job.output, "200k") as disk:
        disk.remount("ro")
        assert job.start().wait(timeout=200) == 2
        assert "Read-only file system" in errors.read_text().splitlines()[-1]
        disk.remount("rw")
        assert job.start().wait(timeout=300) == 1
        assert "no space left" in errors.read_text().splitlines()[-1]
        whole = job.units_committed()
        assert whole, "filled before anything was committed"
        assert sum(len(read_unit_file(str(file))) for file in job.output.glob("labels/*/*.parquet")) >= whole
        disk.remount("size=64m")
        process = job.start()
        wait_for(lambda: job.units_committed() > whole, process)
        disk.remount("ro")
        assert process.wait(timeout=300) == 1
        assert "Read-only file system" in errors.read_text().splitlines()[-1]
        disk.remount("rw")
        job.finish()
        require_exact(job, images, {"labeled": images})
        say(job, images, "output read-only, full, and read-only again", started)


def test_everything_at_once(tmp_path: Path, checkpoint: Path, cluster: ChaosCluster) -> None:
    poison = frozenset(random.Random(8).sample(range(2000), 2))
    images, started = write_images(tmp_path, shards=20, images=100, poison=poison), time.time()
    stub = {"seconds": 0.05, "die_rate": 0.002, "die_on_width": POISON_WIDTH}
    job = Job(tmp_path, checkpoint, cluster.address, stub)
    with killing(6, lambda: ray_processes(*DETECTING, *READING), seed=9, at_most=12) as killed:
        for committed in (4, 12):
            process = job.start()
            wait_for(lambda committed=committed: job.units_committed() >= committed, process)  # type: ignore[misc]
            cluster.kill_node()
            time.sleep(2)
            process.kill()
            process.wait()
        job.finish()
    require_exact(job, images, {"labeled": images - 2, "quarantined": 2})
    say(
        job,
        images,
        f"all at once (2 driver kills, 2 lost nodes, {len(killed)} killed processes, 2 crashing images)",
        started,
    )
