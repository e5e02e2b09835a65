"""The driver of a labeling job as a process that can be killed: `python -m tests.chaos_driver SPEC.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from labeler.config import make_config
from labeler.errors import LabelerError
from labeler.pipeline.label import label
from tests.stub_detector import MakeStub


def main(path: str) -> int:
    spec = json.loads(Path(path).read_text())
    try:
        outcome = label(
            make_config(spec["config"]), make_detector=MakeStub(**spec["stub"]), console=Console(stderr=True, width=200)
        )
    except LabelerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(outcome.report.statuses))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
