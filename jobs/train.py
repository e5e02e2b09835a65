"""`python -m jobs.train ...` is `labeler train ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
