"""`python -m jobs.label ...` is `labeler label ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
