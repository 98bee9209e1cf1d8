"""Which seen classes play the part of unseen ones (DESIGN §10)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zslib.benchmark import Split
from zslib.errors import InputError
from zslib.held_out import draw_held_out
from zslib.params.evaluation import SelectionParams

CLASSES = ("background", "a", "b", "c", "d", "e")
SPLIT = Split.from_ids("s", CLASSES, [3], [])
candidates = st.sampled_from(["all", list(CLASSES)])


@given(seed=st.integers(0, 2**32 - 1), candidates_from=candidates)
def test_zs3net_section_1_3_background_is_always_seen(
    seed: int, candidates_from: str | list[str]
) -> None:
    params = SelectionParams(held_out=2, draws=2, candidates_from=candidates_from)
    draws = draw_held_out(SPLIT, params, seed=seed)
    assert sorted(c for draw in draws for c in draw.unseen) == [1, 2, 4, 5]
    assert all(0 in draw.seen for draw in draws)


def test_background_is_not_counted_among_those_to_draw_from() -> None:
    params = SelectionParams(held_out=5, draws=1)
    with pytest.raises(InputError, match="5 seen classes, split 's' has 4 to draw from"):
        draw_held_out(SPLIT, params, seed=0)


def test_other_classes_than_the_candidates_are_not_drawn() -> None:
    params = SelectionParams(held_out=1, draws=2, candidates_from=["b", "e", "c"])
    draws = draw_held_out(SPLIT, params, seed=0)
    assert {c for draw in draws for c in draw.unseen} == {2, 5}
