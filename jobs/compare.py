"""`python -m jobs.compare ...` is `labeler compare ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
