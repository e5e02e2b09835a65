"""Train a detector: `python -m jobs.train CONFIG [key=value ...]`."""

from __future__ import annotations

import sys

from labeler.training.command import main

if __name__ == "__main__":
    sys.exit(main())
