"""Self-training of any pixel classifier: pseudo-labels for unlabelled images, and training on them.

Which images are unlabelled is decided by ground truth, in the papers and here: they are the training
images that were left out because they show unseen classes (zs3net §1.5), or, where none was left out,
all of them, unseen pixels being void. What comes of it is a transductive row of the leaderboard.
"""
