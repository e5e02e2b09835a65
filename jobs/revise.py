"""`python -m jobs.revise ...` is `labeler revise ...`, for `ray job submit --working-dir .`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("revise")
