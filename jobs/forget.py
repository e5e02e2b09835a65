"""`python -m jobs.forget ...` is `labeler forget ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["forget", *sys.argv[1:]]))
