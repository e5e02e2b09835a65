"""SAM 3 without torch: its images, and a vocabulary as one pass for each phrase."""
