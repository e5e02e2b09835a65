"""Labels that people corrected in their tools, read back and matched with the run that they came from."""
