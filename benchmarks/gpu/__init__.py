"""What only a GPU can show: whether labeler computes correctly on it, then how fast. `python -m benchmarks.gpu --help`.

Each part of `plan.PARTS` runs in a process of its own with a hard time limit. Every row of the result is appended to
results.jsonl at once, so that a run that is cut off keeps what it has. Nothing here imports Ray.
"""
