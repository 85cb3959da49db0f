"""Stage 11: fidelity, nnU-Net on true and synthetic data, mask agreement, the report."""
