"""`python -m jobs.import ...` is `labeler import ...`, for `ray job submit --working-dir .`."""

from labeler.__main__ import run

if __name__ == "__main__":
    run("import")
