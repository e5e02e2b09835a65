"""One thin file per verb, for `ray job submit`."""
