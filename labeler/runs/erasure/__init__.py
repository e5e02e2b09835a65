"""Deletion requests: images named and taken out of a run and of all that derives from it; lists of what stays out."""
