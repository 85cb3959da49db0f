"""Sampling volumes: windows, Algorithm 1 in batches and to the letter, donors."""
