"""`python -m jobs.calibrate ...` is `labeler calibrate ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
