"""`python -m jobs.retry ...` is `labeler retry ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["retry", *sys.argv[1:]]))
