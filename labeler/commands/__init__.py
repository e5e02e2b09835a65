"""The commands of the command line, one file per command; ray and torch are imported only when a command runs."""
