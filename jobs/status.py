"""`python -m jobs.status ...` is `labeler status ...`, for `ray job submit --working-dir .`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("status")
