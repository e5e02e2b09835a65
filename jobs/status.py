"""`python -m jobs.status ...` is `labeler status ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))
