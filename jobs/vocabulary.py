"""`python -m jobs.vocabulary ...` is `labeler vocabulary ...`, for `ray job submit --working-dir .`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main(["vocabulary", *sys.argv[1:]]))
