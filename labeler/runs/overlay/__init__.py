"""Derived runs: rows of a run that were redone, laid over it; which units those are, and which came since."""
