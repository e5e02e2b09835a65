"""Training: images with boxes in, a Grounding DINO checkpoint out. It imports torch, and Ray in one file only."""
