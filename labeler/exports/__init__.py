"""Exports: a run's rows in the formats that trainers and evaluators read, without a GPU."""
