"""`python -m jobs.mask ...` is `labeler mask ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["mask", *sys.argv[1:]]))
