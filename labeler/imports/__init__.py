"""Labels that were made elsewhere, read from the formats that people have them in."""
