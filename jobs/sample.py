"""`python -m jobs.sample ...` is `labeler sample ...`, for `ray job submit --working-dir .`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("sample")
