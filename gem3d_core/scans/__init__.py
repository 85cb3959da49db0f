"""Volumes on disk: formats, dataset layouts, the check of a dataset, and phantoms."""
