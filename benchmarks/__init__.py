"""Measured side by side, through the real code: `python -m benchmarks.NAME --help`; what came out is in results/."""
