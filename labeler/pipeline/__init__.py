"""The labeling pipeline on Ray Data: a scheduler for units, never the record of progress."""
