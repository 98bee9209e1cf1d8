"""Predictions fused with eigenvectors: `rules` for arrays, `segmenter` for any method's images."""
