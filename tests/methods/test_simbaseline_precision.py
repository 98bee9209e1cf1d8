"""Scores that scale cosines up are float32 even where a network computes in bfloat16."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods.maskformer import proposer
from zslib.methods.sazs.networks import ShapeAware
from zslib.methods.sazs.objectives import Form
from zslib.methods.simbaseline.fusion import class_logits, map_logits
from zslib.vision_language.captions import scaled_cosines


def rounded(*shape: int) -> Tensor:
    """Features as a network hands them on under autocast."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()


def assert_exact_under_autocast(scores: Callable[[Tensor], Tensor], given: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = scores(given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, scores(given.float()), atol=1e-5, rtol=0)


def test_class_logits_of_queries_and_of_pixels() -> None:
    text, no_object = tiny.EMBEDDINGS, torch.ones(tiny.EMBEDDINGS.shape[1])
    width = text.shape[1]
    assert_exact_under_autocast(lambda v: class_logits(v, text, no_object), rounded(2, 5, width))
    assert_exact_under_autocast(lambda v: map_logits(v, text), rounded(2, width, 4, 4))


def test_mask_logits() -> None:
    network, states = proposer().network.eval(), torch.randn(2, 6, 32)
    network.body.mask_embedder = nn.Identity()
    assert_exact_under_autocast(lambda p: network._masks(states, p), rounded(2, 32, 8, 8))


@pytest.mark.parametrize("form", ["sazs", "lseg"])
def test_margins(form: Form) -> None:
    classes = tiny.EMBEDDINGS
    network = ShapeAware(nn.Identity(), classes, classes.mean(0), form)
    given = 10 * rounded(2, classes.shape[1], 4, 4)
    assert_exact_under_autocast(network.margins, given)


def test_logits_of_captions() -> None:
    texts, scale = rounded(3, 8), torch.tensor(100.0).log()
    pictures = rounded(2, 8)
    found = scaled_cosines(pictures, texts, scale)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 100 * pictures.float() @ texts.float().T)
