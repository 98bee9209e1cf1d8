"""ZS3Net (Bucher et al., NeurIPS 2019): a generator of pixel features for classes without pixels.

`generator.py`: a GMMN turns a class embedding and noise into pixel features of that class.
`classifier.py`: the classifier is trained anew on real features of seen and generated features of
unseen classes. Both read the pixel bank, which holds no unseen pixel: the clean form (zs3net §9.5).
`graph.py`: ZS3Net + GC, features of segments generated in their graph; a branch of the classifier.
`official.py`: all interleaved in one loop, as released, with its leaks (zs3net §4);
`official_graph.py`: the graph branch of that loop (zs3net §5).
"""
