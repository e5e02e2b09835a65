"""Which boxes to review next: drawn from a run by design or by choice, and what marks of them say of the run."""
