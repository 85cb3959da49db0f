"""From the source grid to prepared axial slices and back: outline, intensities, geometry, split."""
