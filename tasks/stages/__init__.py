"""Stages 1 to 10, a file each."""
