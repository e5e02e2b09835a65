"""The verbs of the command line, a file each; ray and torch are imported only when a verb runs."""
