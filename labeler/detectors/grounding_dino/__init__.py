"""Grounding DINO and MM-Grounding-DINO: the detector, its forward passes and what proves them equal."""
