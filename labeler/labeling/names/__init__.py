"""Names per image: which categories each image is asked for, by another run, a sidecar or a column."""
