"""What a run would do, on a sample of its images and without Ray: preview, estimate, profile."""
