"""Measured side by side, through the real code: `python -m benchmarks.NAME --help`."""
