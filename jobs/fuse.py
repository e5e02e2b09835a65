"""`python -m jobs.fuse ...` is `labeler fuse ...`, for `ray job submit --working-dir .`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("fuse")
