"""Training: images with boxes in, a Grounding DINO checkpoint out. This room imports torch, and Ray only in one file."""
