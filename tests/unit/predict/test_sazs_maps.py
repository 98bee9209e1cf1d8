"""`zslib predict --method sazs` with a published network, whose cells are parts of the image."""

from pathlib import Path

import numpy as np
import torch

from tests import tiny
from tests.unit.predict.project import CPU, KNOWN, SIZE, SPLIT, predicted
from zslib.artifacts.features import DenseMaps
from zslib.backbones.trained import Backbone
from zslib.methods.sazs.margins import cache_margins, upsampled
from zslib.methods.sazs.networks import Trained
from zslib.params import load_params
from zslib.params.backbone import EncoderParams
from zslib.params.sazs import SazsModel

GAMMA = 0.2
"""Of the project's classifier."""


def published() -> Trained:
    """Return a network of the published sort whose margins vary over the photograph."""
    start = Backbone.load(Path("artifacts/tiny/tiny/backbone/network.safetensors"))
    model = SazsModel(architecture="vit", encoder=EncoderParams(name="vit_tiny_patch16_224"))
    torch.manual_seed(0)
    vectors = (tiny.EMBEDDINGS[:8], tiny.EMBEDDINGS[:8].mean(0))
    network = Trained.begin(model, start, SPLIT, vectors, "lseg")
    with torch.no_grad():
        network.network.embed.encoder.positions *= 50
        network.network.embed.enlarge.bias.zero_()
        network.network.embed.reduce.bias.zero_()
    return network


def margins_of_photograph(network: Trained, folder: Path) -> DenseMaps:
    params, out = load_params(Path("params.yaml")), folder / "maps.h5"
    cache_margins(
        network,
        ["photo"],
        [Path("photo.png")],
        [(SIZE[1], SIZE[0])],
        input_size=params.sazs.input_size,
        short_side=params.features.short_side,
        batch_size=params.features.batch_size,
        out=out,
        runtime=CPU,
        scratch=folder / "scratch",
    )
    return DenseMaps.open(out)


def test_a_published_network_is_resized_as_in_its_episodes(project: Path, tmp_path: Path) -> None:
    network = published()
    network.save(tmp_path / "vit.safetensors")
    options = ("--method", "sazs", "--artifact", f"network={tmp_path / 'vit.safetensors'}")
    found = predicted("photo.png", tmp_path / "out", *options, names=KNOWN)
    maps = margins_of_photograph(network, tmp_path)
    planes = [upsampled(plane, SIZE, corners=False) for plane in maps[0].permute(2, 0, 1)]
    probabilities = torch.stack(planes).softmax(0)
    probabilities[list(SPLIT.seen)] -= GAMMA
    expected = np.array(KNOWN)[probabilities.argmax(0).numpy()]
    np.testing.assert_array_equal(np.array(sorted(KNOWN))[found], expected)
    assert len(np.unique(expected)) > 1
