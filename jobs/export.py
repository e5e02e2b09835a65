"""`python -m jobs.export ...` is `labeler export ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
