"""`python -m jobs.reproduce ...` is `labeler reproduce ...`, for `ray job submit --working-dir .`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("reproduce")
