"""Checks of an installation and of a config before training; each is a function in a list."""
