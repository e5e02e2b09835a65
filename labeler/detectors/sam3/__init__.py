"""SAM 3: one pass per phrase over an image that is encoded once; boxes first, masks only of those that are kept."""
