"""Measurements, each one command; what they print is kept in results/."""
