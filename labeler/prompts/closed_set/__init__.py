"""Closed sets without torch: which checkpoints they are, their images, and their labels for a vocabulary."""
