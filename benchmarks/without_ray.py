"""Label a whole input in this process, without Ray: what `labeler label` commits, for benchmarks on small machines.

    python -m benchmarks.without_ray configs/demo.yaml input=shapes/shards output=shapes/run

The folder is a run like any other, with the fingerprint that `labeler label` would give it: reading, labeling and
committing are the pipeline's own functions. Nothing is resumed, and an image that kills the process ends it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import torch

from labeler import storage
from labeler.config import Config, load_config
from labeler.errors import LabelerError
from labeler.labeling.fingerprint import package_versions, public_config
from labeler.labeling.recipe import labeler_recipe
from labeler.labeling.resolve import Job, plan_input, resolve_job
from labeler.pipeline.source import ReadSettings, ShardWork, units_of
from labeler.pipeline.worker import WorkerSettings, commit, make_labeler, todo_of
from labeler.runs import Run, layout, read_plan
from labeler.runs.create import NewRun, create_run
from labeler.runs.erasure.excluded import Excluded, load_excluded, write_excluded
from labeler.shards import ShardEnd


def label_here(config: Config, *, threads: int) -> Run:
    """A complete run over the config's input.

    Raises:
        LabelerError: the config is refused, or storage fails.
    """
    job, plan = resolve_job(config), plan_input(config)
    config = job.config  # with the size of units said
    new = NewRun(job.fields, public_config(config), package_versions(), job.vocabulary, job.plan, plan)
    excluded = load_excluded(map(storage.absolute_uri, config.input.exclude))
    run = create_run(storage.absolute_uri(config.output.uri), new)
    write_excluded(run, excluded)
    read, settings = _read(run, config, excluded), _worker(run, job, threads)
    labeler = make_labeler(settings)
    for planned in read_plan(run):  # as it is written: a group of image files is known by the digest of its list
        for work in units_of(ShardWork(planned), read):
            if isinstance(work, ShardEnd):
                storage.put_if_absent(run.path(layout.end_marker(work.shard_id, work.units, work.images)), b"")
            else:
                rows, seconds = labeler.label(work.shard_id, work.items, config.input.keep)
                commit(settings, todo_of(settings, work), rows, seconds, labeler.description)
    return run


def _read(run: Run, config: Config, excluded: Excluded) -> ReadSettings:
    return ReadSettings(
        run.uri,
        config.unit.max_images,
        config.unit.max_bytes,
        config.unit.max_image_bytes,
        config.input.keep,
        config.input.image_column,
        excluded,
    )


def _worker(run: Run, job: Job, threads: int) -> WorkerSettings:
    return WorkerSettings(
        run_uri=run.uri,
        labeler=labeler_recipe(job, threads=threads),
        metadata={"run_id": run.manifest.run_id, "model_digest": job.fields["model"]},
        keep=job.config.input.keep,
        max_detections=job.config.detect.max_detections,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.without_ray", description=__doc__.split("\n")[0])
    parser.add_argument("config", help="YAML, as `labeler label` takes it")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    try:
        run = label_here(load_config(asked.config, asked.overrides), threads=asked.threads)
    except LabelerError as error:
        print(f"without_ray: {error}", file=sys.stderr)
        return error.exit_code
    units = Counter(info.uri.split("/")[-2] for info in storage.list_objects(run.path(layout.LABELS_FOLDER)))
    print(f"{units.total():,} units of {len(units):,} shards in {storage.redact(run.uri)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
