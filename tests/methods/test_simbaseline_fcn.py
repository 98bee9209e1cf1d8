"""SimBaseline's per-pixel network: what it is, its loss, and how it learns (simbaseline §6)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.maskformer import (
    ENCODER,
    SEEN,
    SMALL,
    TRAINING,
    embedder,
    images,
    proposer,
    upsampled,
)
from tests.methods.tester import World
from zslib.artifacts.maps import open_labels
from zslib.benchmark import IGNORE_INDEX
from zslib.errors import ArtifactError, InputError
from zslib.fine_tuning import LabelledImages
from zslib.methods.simbaseline.fcn import PixelEmbedder, cross_entropy, fit
from zslib.methods.simbaseline.learning import parameter_groups
from zslib.methods.simbaseline.network import Proposer
from zslib.params.simbaseline import PixelTraining

TEXT = tiny.EMBEDDINGS[list(SEEN)]
LEARNING = PixelTraining.model_validate(
    TRAINING.model_dump(exclude={"void_in_masks", "loss_resolution"})
)
SHORT = LEARNING.model_copy(update={"steps": 6})


# --- the network -----------------------------------------------------------------------------------


def test_encoder_and_pixel_decoder_are_the_proposal_networks() -> None:
    theirs, ours = proposer().network.eval(), embedder().network.eval()
    ours.body.load_state_dict(theirs.body.model.pixel_level_module.state_dict())
    decoded = theirs.body.model(images()).pixel_decoder_last_hidden_state
    torch.testing.assert_close(ours(images()), ours.projection(decoded))
    assert ours(images()).shape == (2, TEXT.shape[1], 16, 16)
    assert ours.projection.kernel_size == (1, 1)


def test_a_saved_embedder_embeds_the_same(tmp_path: Path) -> None:
    found = embedder()
    found.save(tmp_path / "fcn.safetensors")
    loaded = PixelEmbedder.load(tmp_path / "fcn.safetensors")
    torch.testing.assert_close(found.network.eval()(images()), loaded.network.eval()(images()))
    assert (loaded.split, loaded.encoder, loaded.params) == (tiny.SPLIT, ENCODER, SMALL)
    with pytest.raises(ArtifactError, match="holds 'fcn/1', not 'maskformer/1'"):
        Proposer.load(tmp_path / "fcn.safetensors")


# --- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_on_logits_of_the_grid_upsampled_four_times() -> None:
    rng = np.random.default_rng(0)
    vectors, text = rng.normal(size=(3, 2, 3)), rng.normal(size=(4, 3))
    labels = rng.integers(0, 4, (8, 12))
    labels[:3, 5:] = IGNORE_INDEX
    unit = vectors / np.linalg.norm(vectors, axis=0)
    names = text / np.linalg.norm(text, axis=1, keepdims=True)
    logits = upsampled(100 * np.einsum("dhw,kd->khw", unit, names))
    log_total = np.log(np.exp(logits - logits.max(0)).sum(0)) + logits.max(0)
    expected = sum(
        log_total[y, x] - logits[labels[y, x], y, x] for y, x in np.argwhere(labels != IGNORE_INDEX)
    )
    total, count = cross_entropy(
        torch.tensor(vectors[None]).float(),
        torch.tensor(labels[None]).byte(),
        torch.tensor(text).float(),
    )
    assert count == 96 - 21
    assert total.item() == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_labels_teaches_nothing() -> None:
    vectors = torch.randn(2, 6, 3, 3, requires_grad=True)
    void = torch.full((2, 12, 12), IGNORE_INDEX, dtype=torch.uint8)
    total, count = cross_entropy(vectors, void, TEXT)
    assert total == count == 0
    total.backward()
    assert vectors.grad is not None
    assert vectors.grad.eq(0).all()


# --- training --------------------------------------------------------------------------------------


def fitted(
    world: World,
    folder: Path,
    *,
    training: PixelTraining = LEARNING,
    curves: tiny.RecordedCurves | None = None,
) -> PixelEmbedder:
    found = embedder()
    labelled = tiny.labelled_images(folder, world.images, world.image_labels)
    fit(found, labelled, TEXT, training, tiny.run(folder, curves, seconds=0))
    return found


def test_it_learns_to_name_pixels(world: World, tmp_path: Path) -> None:
    curves = tiny.RecordedCurves()
    fitted(world, tmp_path, curves=curves)
    losses = curves.series("loss")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_killed_training_ends_as_an_unbroken_one(world: World, tmp_path: Path) -> None:
    fitted(world, tmp_path / "one", training=SHORT).save(tmp_path / "whole")
    dying = tiny.RecordedCurves(dies_after=4)
    with pytest.raises(tiny.KilledError):
        fitted(world, tmp_path / "two", training=SHORT, curves=dying)
    fitted(world, tmp_path / "two", training=SHORT).save(tmp_path / "resumed")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


def test_what_is_not_seen_teaches_nothing_even_where_it_is_labelled(
    world: World, tmp_path: Path
) -> None:
    assert any(np.isin(known, tiny.UNSEEN).any() for known in world.image_labels)
    fitted(world, tmp_path, training=SHORT).save(tmp_path / "seen")
    raw, found = open_labels(tiny.write_labels(tmp_path / "raw.h5", world.image_labels)), embedder()
    files = dict(zip(raw.ids, world.images, strict=True))
    labelled = LabelledImages.of(files.__getitem__, raw)
    fit(found, labelled, TEXT, SHORT, tiny.run(tmp_path / "again"))
    found.save(tmp_path / "everything")
    assert (tmp_path / "seen").read_bytes() == (tmp_path / "everything").read_bytes()


def test_fewer_images_than_a_batch_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"simbaseline\.fcn\.training\.batch_size: 99 is more"):
        fitted(world, tmp_path, training=LEARNING.model_copy(update={"batch_size": 99}))


def test_the_encoder_learns_a_tenth_as_fast_as_published() -> None:
    network = embedder().network
    groups = parameter_groups(network, LEARNING.model_copy(update={"encoder_lr_factor": 0.1}))
    factor = {id(p): g["lr_factor"] for g in groups for p in g["params"]}
    assert {factor[id(p)] for p in network.encoder.parameters()} == {0.1}
    assert factor[id(network.projection.weight)] == 1.0
    assert len(factor) == len(list(network.parameters()))
