"""`python -m jobs.report ...` is `labeler report ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
