"""SimBaseline's views, training, proposals and self-training on tiny images (simbaseline §2, §7)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods.maskformer import (
    ENCODER,
    SEEN,
    SMALL,
    TRAINING,
    images,
    index_of,
    proposer,
)
from tests.methods.tester import World
from zslib.artifacts.maps import LABELS, open_labels, open_pseudo_labels
from zslib.artifacts.proposals import Proposals
from zslib.benchmark import IGNORE_INDEX
from zslib.datasets.index import ImageIndex
from zslib.embeddings.table import ClassVectors
from zslib.errors import InputError
from zslib.methods.simbaseline.extraction import TestImages, extract
from zslib.methods.simbaseline.fit import fit
from zslib.methods.simbaseline.network import MaskFormer, Proposer
from zslib.methods.simbaseline.segmenters import ProposalSegmenter, segmenter
from zslib.methods.simbaseline.self_training import self_train
from zslib.methods.simbaseline.views import jittered, resized, training_view
from zslib.params.simbaseline import (
    FusionParams,
    ProposalAugmentation,
    ProposalPseudoLabels,
    ProposalSelfTraining,
    ProposalTraining,
    ViewParams,
)
from zslib.params.training import OptimiserParams
from zslib.training import SingleProcess

# --- views -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [((500, 375), (683, 512)), ((100, 900), (228, 2048)), ((3, 3), (512, 512))],
)
def test_the_long_side_bounds_the_short_one(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized(size, 512, 2048) == expected


def test_a_view_is_cropped_and_padded_with_grey_and_void() -> None:
    params = ProposalAugmentation(
        short_sides=[16, 48], long_side=64, crop_size=32, colour_jitter=True
    )
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    labels = np.ones((20, 30), np.uint8)
    views = [
        training_view(image, labels, params, np.random.default_rng(seed)) for seed in range(12)
    ]
    assert {view[0].shape for view in views} == {(32, 32, 3)}
    padded = [(picture, known) for picture, known in views if (known == IGNORE_INDEX).any()]
    assert 0 < len(padded) < 12
    for picture, known in padded:
        assert (picture[known == IGNORE_INDEX] == 128).all()
        assert (known[:16, :24] == 1).all()
        assert (known[16:] == IGNORE_INDEX).all()


def test_colour_jitter_moves_colours_and_nothing_else() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = (200, 120, 40)
    found = [jittered(image, np.random.default_rng(seed)) for seed in range(100)]
    for picture in found:
        assert picture.dtype == np.uint8
        assert (picture[:4] == picture[0, 0]).all()
        assert (picture[4:] == picture[4, 0]).all()
    assert len({picture[0, 0].tobytes() for picture in found}) > 20
    assert any((picture == image).all() for picture in found)


# --- training --------------------------------------------------------------------------------------


def fitted(
    world: World,
    folder: Path,
    *,
    training: ProposalTraining = TRAINING,
    curves: tiny.RecordedCurves | None = None,
) -> Proposer:
    found = proposer()
    fit(
        found,
        world.images,
        [tiny.SPLIT.seen_labels(label_map) for label_map in world.image_labels],
        SEEN,
        training,
        section="simbaseline.proposals.training",
        run=tiny.run(folder, curves, seconds=0),
    )
    return found


SHORT = TRAINING.model_copy(update={"steps": 6})


def test_it_learns_to_name_what_it_cuts_out(world: World, tmp_path: Path) -> None:
    curves = tiny.RecordedCurves()
    fitted(world, tmp_path, curves=curves)
    for name in ("loss", "cross_entropy"):
        losses = curves.series(name)
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5]), name


def test_a_killed_training_ends_as_an_unbroken_one(world: World, tmp_path: Path) -> None:
    fitted(world, tmp_path / "one", training=SHORT).save(tmp_path / "whole")
    dying = tiny.RecordedCurves(dies_after=4)
    with pytest.raises(tiny.KilledError):
        fitted(world, tmp_path / "two", training=SHORT, curves=dying)
    fitted(world, tmp_path / "two", training=SHORT).save(tmp_path / "resumed")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


def test_section_2_3_a_step_is_no_longer_than_the_clipped_gradient_of_the_whole_model(
    world: World, tmp_path: Path
) -> None:
    """Plain gradient descent at rate 1, for AdamW's steps do not tell how long a gradient is."""
    descent = OptimiserParams(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    once = {"optimiser": descent, "gradient_clip": 0.01, "steps": 1}
    found = fitted(world, tmp_path, training=TRAINING.model_copy(update=once))
    before, after = (
        nn.utils.parameters_to_vector(p.network.parameters()) for p in (proposer(), found)
    )
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_fewer_images_than_a_batch_are_refused(world: World, tmp_path: Path) -> None:
    key = r"simbaseline\.proposals\.training\.batch_size"
    with pytest.raises(InputError, match=f"{key}: 99 is more than the 8"):
        fitted(world, tmp_path, training=TRAINING.model_copy(update={"batch_size": 99}))


# --- extraction ------------------------------------------------------------------------------------


def blank(sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    return [np.zeros(size, np.uint8) for size in sizes]


VIEWS = ViewParams(short_sides=[40], long_side=80)


def extracted(folder: Path, test_images: TestImages, found: Proposer, batch_size: int) -> Path:
    out = folder / f"by{batch_size}.h5"
    extract(
        found,
        test_images,
        out,
        batch_size=batch_size,
        runtime=SingleProcess(),
        scratch=folder / f"scratch{batch_size}",
    )
    return out


def test_proposals_are_those_of_the_padded_test_image(tmp_path: Path) -> None:
    index = index_of(tmp_path / "images", blank([(40, 40), (40, 40), (20, 30)]))
    test_images = TestImages.of(index, index.ids("val"), VIEWS)
    found = proposer()
    proposals = Proposals.open(extracted(tmp_path, test_images, found, 2))
    assert proposals.ids == index.ids("val")
    assert proposals.split == tiny.SPLIT
    one = proposals[2]
    assert (one.view, one.padded) == ((40, 60), (64, 64))
    assert one.logits.shape == (6, 16, 16)
    assert one.soft_masks().shape == (6, 40, 60)
    np.testing.assert_array_equal(proposals.no_object, found.network.head.no_object.detach())
    alone = Proposals.open(extracted(tmp_path, test_images, found, 1))
    torch.testing.assert_close(alone[0].logits, proposals[0].logits, atol=1e-2, rtol=1e-2)


def test_o14_the_sigmoid_follows_the_upsampling(tmp_path: Path) -> None:
    index = index_of(tmp_path / "images", blank([(40, 40)]))
    test_images = TestImages.of(index, index.ids("val"), VIEWS)
    one = Proposals.open(extracted(tmp_path, test_images, proposer(), 1))[0]
    large = nn.functional.interpolate(
        one.logits[None], (64, 64), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(one.soft_masks(), large[0, :, :40, :40].sigmoid())


def test_a_killed_extraction_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(tmp_path / "images", blank([(40, 40)] * 3))
    test_images = TestImages.of(index, index.ids("val"), VIEWS)
    found = proposer()
    whole = extracted(tmp_path, test_images, found, 1).read_bytes()
    monkeypatch.setattr("zslib.artifacts.resumable.SECONDS_BETWEEN_FLUSHES", -1.0)
    seen: list[int] = []
    propose = MaskFormer.propose

    def dying(self: MaskFormer, pictures: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(pictures))
        if len(seen) == 3:
            raise tiny.KilledError
        return propose(self, pictures)

    (tmp_path / "again").mkdir()
    monkeypatch.setattr(MaskFormer, "propose", dying)
    with pytest.raises(tiny.KilledError):
        extracted(tmp_path / "again", test_images, found, 1)
    assert extracted(tmp_path / "again", test_images, found, 1).read_bytes() == whole
    assert len(seen) == 4


def test_a_saved_proposer_proposes_the_same(tmp_path: Path) -> None:
    found = proposer()
    found.save(tmp_path / "network.safetensors")
    loaded = Proposer.load(tmp_path / "network.safetensors")
    for ours, theirs in zip(
        found.network.eval().propose(images()),
        loaded.network.eval().propose(images()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    assert (loaded.split, loaded.encoder, loaded.params) == (tiny.SPLIT, ENCODER, SMALL)


def test_one_size_for_tests(tmp_path: Path) -> None:
    index = index_of(tmp_path / "images", blank([(40, 40)]))
    with pytest.raises(InputError, match="give one"):
        TestImages.of(index, index.ids("val"), ViewParams(short_sides=[40, 50], long_side=80))


# --- self-training (simbaseline §7) ----------------------------------------------------------------


def self_trained(
    folder: Path,
    found: Proposer,
    labels: ProposalPseudoLabels,
    curves: tiny.RecordedCurves | None = None,
) -> tuple[ImageIndex, Proposals]:
    """Self-train on four images without a seen pixel, and two that were left out of training."""
    index = index_of(folder, blank([(40, 40)] * 6))
    meta, void = tiny.SPLIT.describe(), np.full((40, 40), IGNORE_INDEX, np.uint8)
    tiny.write_label_maps(
        folder / "seen.h5", index.ids("val")[:4], [void] * 4, schema=LABELS, meta=meta
    )
    unlabelled = TestImages.of(index, index.ids("val")[4:], VIEWS)
    proposals = Proposals.open(extracted(folder, unlabelled, proposer(), 2))
    text = ClassVectors("text", tiny.CLASSES, tiny.EMBEDDINGS.numpy(), {})
    self_train(
        found,
        segmenter("queries", proposals, text, tiny.SPLIT, FusionParams()),
        text,
        index,
        open_labels(folder / "seen.h5"),
        ProposalSelfTraining(splits=[], labels=labels, training=SHORT),
        test=TestImages.of(index, index.ids("val"), VIEWS),
        batch_size=2,
        out=folder / "st",
        run=tiny.run(folder, curves, seconds=0),
    )
    return index, proposals


def test_self_training_goes_on_with_all_classes(tmp_path: Path) -> None:
    """From where the first training ended; the images of the proposals get pseudo-labels."""
    found, curves = proposer(), tiny.RecordedCurves()
    before = found.network.head.no_object.detach().clone()
    index, proposals = self_trained(
        tmp_path, found, ProposalPseudoLabels(rule="released"), curves=curves
    )
    labels, _ = open_pseudo_labels(tmp_path / "st/pseudo_labels.h5")
    assert labels.ids == proposals.ids
    assert set(labels.pixels.tolist()) <= {*tiny.UNSEEN}, "nothing is void by the released rule"
    assert torch.equal(found.network.head.text, tiny.EMBEDDINGS)
    assert len(curves.series("loss")) == SHORT.steps
    assert not torch.equal(found.network.head.no_object, before)
    loaded = Proposer.load(tmp_path / "st/network.safetensors")
    assert torch.equal(loaded.network.head.no_object, found.network.head.no_object)
    proposed = Proposals.open(tmp_path / "st/val.h5")
    assert proposed.ids == index.ids("val")
    np.testing.assert_array_equal(proposed.no_object, loaded.network.head.no_object.detach())


def test_a_kill_in_labelling_or_in_training_labels_no_image_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ProposalPseudoLabels(quantile=0.5)
    self_trained(tmp_path / "whole", proposer(), rule)
    monkeypatch.setattr("zslib.artifacts.resumable.SECONDS_BETWEEN_FLUSHES", -1.0)
    class_scores, labelled = ProposalSegmenter.class_scores, []

    def counted(self: ProposalSegmenter, position: int, size: tuple[int, int]) -> Tensor:
        labelled.append(position)
        if labelled == [0, 1]:
            raise tiny.KilledError
        return class_scores(self, position, size)

    monkeypatch.setattr(ProposalSegmenter, "class_scores", counted)
    again = tmp_path / "again"
    with pytest.raises(tiny.KilledError):
        self_trained(again, proposer(), rule)
    with pytest.raises(tiny.KilledError):
        self_trained(again, proposer(), rule, tiny.RecordedCurves(dies_after=3))
    assert labelled == [0, 1, 1]
    self_trained(again, proposer(), rule)
    assert labelled == [0, 1, 1]
    for name in ("pseudo_labels.h5", "network.safetensors", "val.h5"):
        found, whole = ((tmp_path / run / "st" / name).read_bytes() for run in ("again", "whole"))
        assert found == whole, name
