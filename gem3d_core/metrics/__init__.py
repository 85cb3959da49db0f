"""Measures of synthetic volumes: fidelity, continuity, segmentation overlap, privacy, and how sure they are."""
