"""ZS3Net (Bucher et al., NeurIPS 2019): a generator of pixel features for classes without pixels.

`generator.py`: a GMMN turns a class embedding and noise into pixel features of that class.
`classifier.py`: the classifier is trained anew on real features of seen and generated features of
unseen classes. Both read the pixel bank, which holds no unseen pixel: the clean form (zs3net §9.5).
`official.py`: both interleaved in one loop, as released, with its leaks (zs3net §4).
"""
