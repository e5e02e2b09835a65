"""Checkpoints that people usually take: what they are, what they cost, and what has been published about them."""
