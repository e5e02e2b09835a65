"""Derived runs: redone rows of a run that overlay it; which units those are, and which came since."""
