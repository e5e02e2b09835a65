"""Where each thing lies inside a run folder: the one place that spells its paths."""

from __future__ import annotations

import re

from labeler import storage

MANIFEST = "run.json"
VOCABULARY = "vocabulary.json"
PROMPTS = "prompts.json"
REPORT = "report.json"
EVALUATION = "evaluation.json"  # these five where commands write unless they are told otherwise
THRESHOLDS = "thresholds.yaml"
PAGE = "report.html"
CORRECTIONS = "corrections.json"  # of a corrected run: what its reviewers did, counted
SAMPLE = "sample.json"
EXPORTS_FOLDER = "exports"
SELECTION = "selection.parquet"
PLAN_FOLDER = "plan"
GROUPS_FOLDER = "groups"
LABELS_FOLDER = "labels"
SHARDS_FOLDER = "shards"
ATTEMPTS_FOLDER = "attempts"
RECEIPTS_FOLDER = "receipts"
DERIVED_FOLDER = "derived"
EXCLUDED_FOLDER = "excluded"
MADE_FOLDER = "made"
TEMPORARY_FOLDER = ".tmp"

UNIT_FILE = re.compile(r"(\d{6,})/(\d{6,})\.parquet")
storage.share_scratch(MANIFEST, depth=3)  # the deepest file is labels/<shard>/<unit>.parquet

END_MARKER = re.compile(r"(\d{6,})-(\d+)-(\d+)")


def plan_file(generation: int) -> str:
    return f"{PLAN_FOLDER}/{generation:05d}.parquet"


def group_file(shard_id: str, digest: str) -> str:
    """Named by what it holds, too: two jobs that extend a plan at once must not write over each other's."""
    return f"{GROUPS_FOLDER}/{shard_id}-{digest[:16]}.parquet"


def group_file_before(shard_id: str) -> str:
    """As runs had it before their groups had digests in their names."""
    return f"{GROUPS_FOLDER}/{shard_id}.parquet"


def unit_file(shard_id: str, unit: int) -> str:
    return f"{LABELS_FOLDER}/{shard_id}/{unit:06d}.parquet"


def end_marker(shard_id: str, units: int, images: int) -> str:
    return f"{SHARDS_FOLDER}/{shard_id}-{units}-{images}"


def attempts_file(session: str) -> str:
    return f"{ATTEMPTS_FOLDER}/{session}.json"


def receipts_file(job: str, number: int) -> str:
    return f"{RECEIPTS_FOLDER}/{job}/{number:05d}.parquet"


def excluded_file(digest: str) -> str:
    return f"{EXCLUDED_FOLDER}/{digest}.txt"


def derived_file(run_id: str) -> str:
    return f"{DERIVED_FOLDER}/{run_id}"


def made_file(digest: str) -> str:
    return f"{MADE_FOLDER}/{digest}"
