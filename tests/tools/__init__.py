"""`make test-tools`: exports are opened by the packages of the tools that they are for, each in its own environment."""
