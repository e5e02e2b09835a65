"""`python -m jobs.submit ...` is `labeler submit ...`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("submit")
