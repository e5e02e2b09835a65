"""`python -m labeler` is `labeler`."""

import sys

from labeler.cli import main

if __name__ == "__main__":
    sys.exit(main())
