"""Ground ground truth that people give: annotations read and checked, matched with a run by name and by box."""
