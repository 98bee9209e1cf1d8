"""Self-training of any pixel classifier: pseudo-labels for unlabelled images, and training on them.

Which images are unlabelled is decided by ground truth, in the papers and here: they are the training
images that were left out because they show unseen classes (zs3net §1.5), or, by a rule that keeps those,
all of them, unseen pixels being void (`zslib.datasets.labels.unlabelled_ids`). What comes of it is a
transductive row of the leaderboard.
"""
