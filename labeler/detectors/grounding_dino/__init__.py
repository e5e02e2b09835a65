"""Grounding DINO and MM-Grounding-DINO: the detector, its forward passes and the check that they are equal."""
