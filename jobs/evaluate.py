"""`python -m jobs.evaluate ...` is `labeler evaluate ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
