"""Choosing without looking at unseen classes: which seen classes play their part (DESIGN §10).

Every free choice of a clean run is made the same way: hide some seen classes, train as if they were
the unseen ones, score on training images kept out of that training, average over draws, take the
best (`zslib.selection`), then train with all seen classes. The backbone has seen the hidden classes,
so the scores on the way are optimistic; they serve to compare candidates, not to predict a result.
"""

import numpy as np

from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.params.benchmark import BACKGROUND
from zslib.params.evaluation import SelectionParams


def draw_held_out(split: Split, params: SelectionParams, *, seed: int) -> list[Split]:
    """Return the split with some seen classes hidden, once per draw; no class is hidden twice.

    Background never is: no benchmark has it among its unseen classes (zs3net §1.3).

    Raises:
        InputError: there are too few seen classes to draw from.
    """
    allowed = [
        c
        for c in split.seen
        if split.classes[c] != BACKGROUND
        and (params.candidates_from == "all" or split.classes[c] in params.candidates_from)
    ]
    wanted = params.held_out * params.draws
    if wanted > len(allowed) or len(split.seen) - params.held_out < 1:
        raise InputError(
            f"selection: {params.draws} draws of {params.held_out} classes need {wanted} seen "
            f"classes, split '{split.name}' has {len(allowed)} to draw from; lower held_out or draws"
        )
    order = np.random.default_rng(seed).permutation(allowed).tolist()
    size = params.held_out
    return [split.hide(order[start : start + size]) for start in range(0, wanted, size)]
