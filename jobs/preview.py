"""`python -m jobs.preview ...` is `labeler preview ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["preview", *sys.argv[1:]]))
