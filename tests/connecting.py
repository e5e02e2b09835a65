"""Connect to Ray once per argument, and print each result as a line of JSON: `python -m tests.connecting`."""

from __future__ import annotations

import io
import json
import sys

import ray
from rich.console import Console

from labeler.errors import Refused
from labeler.pipeline.connection import connect


def main(settings: list[str]) -> None:
    for setting in settings:
        said = io.StringIO()
        try:
            started = connect(setting or None, Console(file=said, width=1000))
            found = {"started": started, "address": ray.get_runtime_context().gcs_address, "said": said.getvalue()}
        except Refused as error:
            found = {"refused": str(error), "said": said.getvalue()}
        print(json.dumps(found), flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
