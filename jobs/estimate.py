"""`python -m jobs.estimate ...` is `labeler estimate ...`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("estimate")
