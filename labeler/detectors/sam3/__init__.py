"""SAM 3: a pass a phrase over an image that is encoded once; boxes first, masks only of those that are kept."""
