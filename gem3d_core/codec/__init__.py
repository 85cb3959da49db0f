"""The frozen first stage: slices to latents and back."""
