"""Eigenvectors of images: `laplacian` is the mathematics of one image, `extraction` does many."""
