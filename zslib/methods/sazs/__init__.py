"""SAZS (Liu et al., CVPR 2023): pixels are aligned with text, and with the outlines of objects.

`networks.py`, `objectives.py`, `shape.py`: what embeds pixels, and the losses. `items.py`: images with
one seen class each, which `fit.py` trains on. `margins.py` caches for every class by how much a pixel
is it rather than "others": from these maps comes the generalised row, and, by `binary.py` and
`episodes.py`, the evaluation class by class that the paper has, with and without eigenvectors.
"""
