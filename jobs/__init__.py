"""One thin file per command, for `ray job submit`."""
