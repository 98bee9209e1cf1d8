"""SimBaseline's fusion, assembly and pseudo-labels, by the numbers of the specification (simbaseline §12)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from zslib.artifacts.maps import LABELS, MixedLabels, open_labels, open_pseudo_labels
from zslib.artifacts.proposals import Proposal, Proposals, ProposalWriter
from zslib.artifacts.regions import Regions
from zslib.benchmark import IGNORE_INDEX, Split
from zslib.embeddings.table import ClassVectors
from zslib.errors import ArtifactError, InputError
from zslib.methods.simbaseline import segmenters
from zslib.methods.simbaseline.fusion import (
    class_logits,
    fuse,
    oracle_scores,
    query_probabilities,
    region_probabilities,
    semantic_map,
)
from zslib.methods.simbaseline.segmenters import ProposalSegmenter, segmenter
from zslib.methods.simbaseline.self_training import (
    KnownLabels,
    best_unseen,
    best_unseen_as_released,
    label,
)
from zslib.params.simbaseline import FusionParams, ProposalPseudoLabels
from zslib.segmenters import Segmenter

# --- oracle checks 2 and 3, O15 --------------------------------------------------------------------

QUERIES = torch.tensor([[0.70, 0.20, 0.05], [0.01, 0.02, 0.02]])
REGIONS = torch.tensor([[0.5, 0.1, 0.4], [1.0, 1.0, 1.0]])
SEEN = torch.tensor([True, True, False])
MASKS = torch.tensor([[2.0, -1.0], [-3.0, -0.2]]).sigmoid()[:, None]
VALID = torch.tensor([True, False])


def assembled(scores: Tensor) -> Tensor:
    return semantic_map(scores, MASKS)[:, 0]


def assert_close(found: Tensor, expected: Sequence[object]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def with_cosines(*cosines: float) -> Tensor:
    """Unit rows that have these cosines with the first axis."""
    first = torch.tensor(cosines)
    return torch.stack([first, (1 - first**2).sqrt()], dim=1)


def test_check_2_the_query_softmax_counts_no_object_and_drops_it() -> None:
    vectors, text = torch.tensor([[3.0, 0.0]]), with_cosines(0.30, 0.25)
    (no_object,) = with_cosines(0.28)
    everything = class_logits(vectors, 5 * text, 0.1 * no_object).softmax(-1)
    assert_close(everything, [[0.875601, 0.005900, 0.118500]])
    found = query_probabilities(vectors, 5 * text, 0.1 * no_object)
    assert_close(found, [[0.875601, 0.005900]])


def test_check_3_fusion_and_assembly() -> None:
    fused = fuse(QUERIES, REGIONS, SEEN, 0.8)
    assert_close(fused, [[0.654444, 0.174110, 0.263902], [0.025119, 0.043734, 0.457305]])
    found = assembled(fused)
    assert_close(found, [[0.577624, 0.187315], [0.155430, 0.066513], [0.254132, 0.276837]])
    assert found.argmax(0).tolist() == [0, 2]
    dropped = assembled(fused * VALID[:, None])
    assert_close(dropped[:, 1], [0.176007, 0.046825, 0.070974])
    assert dropped.argmax(0).tolist() == [0, 0]


def test_check_3_without_the_flag_every_class_counts_as_unseen() -> None:
    fused = fuse(QUERIES, REGIONS, torch.zeros(3, dtype=torch.bool), 0.4)
    assert_close(fused[0], [0.611853, 0.151572, 0.114870])


def test_o15_all_queries_invalid() -> None:
    released = assembled(fuse(QUERIES, torch.ones(2, 3), SEEN, 0.8))
    assert_close(released[0], [0.663338, 0.213487])
    direct = assembled(torch.ones(2, 3) * torch.zeros(2, 1))
    assert direct.eq(0).all()
    assert direct.argmax(0).tolist() == [0, 0]


def test_o15_direct_clip_and_the_query_head_alone() -> None:
    direct = assembled(REGIONS * VALID[:, None])
    assert_close(direct, [[0.440399, 0.134471], [0.088080, 0.026894], [0.352319, 0.107577]])
    head = assembled(QUERIES)
    assert_close(head, [[0.617032, 0.192761], [0.177108, 0.062792], [0.044988, 0.022450]])


def test_a_region_is_told_from_the_names_alone() -> None:
    text = with_cosines(0.30, 0.25)
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = region_probabilities(embeddings, VALID, text)
    assert_close(found, [[0.993307, 0.006693], [1.0, 1.0]])


@given(weight=st.floats(0, 1), seed=st.integers(0, 100))
def test_fusion_lies_between_both_classifiers(weight: float, seed: int) -> None:
    torch.manual_seed(seed)
    first, second = torch.rand(2, 3, 4).softmax(-1)
    found = fuse(first, second, torch.rand(4) < 0.5, weight)
    assert (found <= torch.maximum(first, second) + 1e-6).all()
    assert (found >= torch.minimum(first, second) - 1e-6).all()


# --- oracle check 10 -------------------------------------------------------------------------------

PROPOSED = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])[:, None]
TRUE = torch.tensor([[True, True, False, False], [False, False, True, True]])[:, None]


def test_check_10_oracle_label_assignment() -> None:
    assert_close(oracle_scores(PROPOSED, TRUE), [[0.727273, 0.272727], [0.0, 1.0]])


def test_o15_half_is_not_foreground() -> None:
    assert oracle_scores(torch.full((1, 1, 4), 0.5), TRUE).eq(0).all()


@pytest.mark.parametrize(("classes", "expected"), [(171, 0.015738), (20, 0.125161)])
def test_check_10_the_second_softmax_is_nearly_flat(classes: int, expected: float) -> None:
    scores = torch.zeros(classes, 1, 1)
    scores[-1] = 1.0

    def found(threshold: float) -> int:
        labels, _ = best_unseen_as_released(scores, range(classes), [classes - 1], threshold)
        return int(labels[0, 0])

    assert found(expected - 1e-6) == classes - 1
    assert found(expected + 1e-6) == IGNORE_INDEX


# --- segmenters ------------------------------------------------------------------------------------

CLASSES = ("sky", "ground", "void", "cat", "dog")
SPLIT = Split.named("u1", CLASSES, unseen=["dog"], void=["void"])
TEXT = ClassVectors("text", CLASSES, np.eye(5, dtype=np.float32), {})
FUSION = FusionParams(weight=0.8, invalid_queries="drop")


def regions_of(proposals: Proposals, classes: Sequence[int]) -> Regions:
    """Embeddings that name the queries of each image as told; a negative class is no region."""
    named = np.array(classes)
    rows = np.eye(5, dtype=np.float16)[named.clip(min=0)]
    images, meta = len(proposals), {"proposals": proposals.key}
    valid = np.stack([named >= 0] * images).astype(np.uint8)
    return Regions(proposals.ids, np.stack([rows] * images), valid, meta)


def write_proposals(folder: Path, classes: Sequence[int]) -> Proposals:
    """Two images of 32 x 32 in a padded view of 32 x 64: each query claims a quarter of the rows."""
    views, padded = [(32, 32)] * 2, [(32, 64)] * 2
    no_object = torch.full((5,), 0.1)
    writer = ProposalWriter(
        folder / "p.h5", views, padded, queries=4, no_object=no_object, scratch=folder / "s"
    )
    logits = torch.full((4, 8, 16), -20.0)
    for query in range(4):
        logits[query, 2 * query : 2 * query + 2] = 20.0
    for _ in views:
        writer.add(logits, 7 * torch.eye(5)[list(classes)])
    writer.publish(["a", "b"], meta=SPLIT.describe())
    return Proposals.open(folder / "p.h5")


@pytest.fixture
def proposals(tmp_path: Path) -> Proposals:
    return write_proposals(tmp_path, [0, 1, 3, 4])


def rows_of(found: np.ndarray) -> list[int]:
    """The label in the middle of each quarter of the rows."""
    return found[found.shape[0] // 8 :: found.shape[0] // 4, 0].tolist()


def test_queries_name_their_masks(proposals: Proposals) -> None:
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    assert isinstance(found, Segmenter)
    assert found.ids == ("a", "b")
    assert found.view(0) == (32, 32)
    assert rows_of(found.predict(0, (64, 48))) == [0, 1, 3, 4]
    assert set(found.among_unseen().predict(0, (32, 32)).flat) == {4}


def test_seen_classes_trust_queries_and_unseen_ones_regions(proposals: Proposals) -> None:
    # The third query says cat, a seen class, and its region dog; the fourth dog, its region sky.
    regions = regions_of(proposals, [0, 1, 4, 0])
    options = {"regions": regions, "region_text": TEXT}
    both = segmenter("both", proposals, TEXT, SPLIT, FUSION, **options)
    scores = both.class_scores(0, (32, 32))[:, 20, 0]
    assert scores[both.classes.index(4)] > scores[both.classes.index(0)]
    by_regions = segmenter("regions", proposals, TEXT, SPLIT, FUSION, **options)
    assert rows_of(by_regions.predict(0, (32, 32))) == [0, 1, 4, 0]


def test_a_query_without_region_votes_only_as_released(proposals: Proposals) -> None:
    regions = regions_of(proposals, [0, 1, 3, -1])
    options = {"regions": regions, "region_text": TEXT}
    clean = segmenter("both", proposals, TEXT, SPLIT, FUSION, **options)
    kept = FusionParams(weight=0.8, invalid_queries="keep")
    released = segmenter("both", proposals, TEXT, SPLIT, kept, **options)
    row = np.s_[:, 28, 0]
    assert clean.class_scores(0, (32, 32))[row].max() < 1e-6
    assert released.class_scores(0, (32, 32))[row].argmax() == released.classes.index(4)


def test_the_oracle_names_masks_by_the_truth(proposals: Proposals, tmp_path: Path) -> None:
    truth = np.repeat(np.array([4, 3, 1, 0], np.uint8), 8)[:, None].repeat(32, axis=1)
    path = tmp_path / "labels.h5"
    tiny.write_label_maps(path, ["b", "a"], [255 - 0 * truth, truth], schema=LABELS, meta={})
    found = segmenter("oracle", proposals, TEXT, SPLIT, FUSION, truth=open_labels(path))
    np.testing.assert_array_equal(found.predict(0, (32, 32)), truth)


def test_the_soft_masks_of_an_image_serve_both_protocols(
    proposals: Proposals, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, soft_masks = [], Proposal.soft_masks
    monkeypatch.setattr(Proposal, "soft_masks", lambda p: made.append(p) or soft_masks(p))
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    among_unseen = found.among_unseen()
    for position in (0, 1):
        assert rows_of(found.predict(position, (32, 32))) == [0, 1, 3, 4]
        assert set(among_unseen.predict(position, (32, 32)).flat) == {4}
    assert len(made) == 2


def test_among_the_unseen_no_other_class_gets_a_map(
    proposals: Proposals, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def watched(scores: Tensor, masks: Tensor) -> Tensor:
        made.append(scores.shape[1])
        return semantic_map(scores, masks)

    monkeypatch.setattr(segmenters, "semantic_map", watched)
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    found.predict(0, (32, 32))
    found.among_unseen().predict(0, (32, 32))
    assert made == [4, 1]


@pytest.mark.parametrize("unseen", [1, 2, 4, 15, 30])
@pytest.mark.parametrize("seed", range(3))
def test_among_the_unseen_the_best_of_all_scores_wins(unseen: int, seed: int) -> None:
    """Though fewer maps may round otherwise, at the sizes of a real image and of a small one."""
    for queries, view in ((100, (160, 213)), (20, (24, 24))):
        found = with_random_scores(queries, view, unseen, seed).among_unseen()
        rows = [found.classes.index(c) for c in found.split.unseen]
        every = found.class_scores(0, (100, 120))[rows]
        expected = np.array(found.split.unseen)[every.argmax(0).numpy()]
        np.testing.assert_array_equal(found.predict(0, (100, 120)), expected)


def with_random_scores(
    queries: int, view: tuple[int, int], unseen: int, seed: int
) -> ProposalSegmenter:
    """Of 40 classes, every query votes for some, as strongly as a softmax does."""
    random = torch.Generator().manual_seed(seed)
    votes = (4 * torch.randn(queries, 41, generator=random)).softmax(1)[:, :-1]
    masks = (4 * torch.randn(queries, *view, generator=random)).sigmoid()
    names = [str(c) for c in range(40)]
    split = Split.named("random", names, unseen=names[1 : unseen + 1], void=[])
    nothing = Proposals((), *[np.zeros(0)] * 5, {})
    return ProposalSegmenter(
        nothing, split, tuple(range(40)), lambda *_: votes, masks=lambda _: masks
    )


def test_the_ensemble_weight_is_above_0() -> None:
    """There the formula trusts the wrong one; the specification means regions alone (O15)."""
    with pytest.raises(ValueError, match="greater than 0"):
        FusionParams(weight=0.0)


def test_predictions_repeat_bit_by_bit(proposals: Proposals) -> None:
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    assert torch.equal(found.class_scores(1, (32, 32)), found.class_scores(1, (32, 32)))


def test_each_cache_knows_the_proposals_it_was_made_of(
    proposals: Proposals, tmp_path: Path
) -> None:
    assert Proposals.open(tmp_path / "p.h5").key == proposals.key
    assert write_proposals(tmp_path / "other", [1, 0, 3, 4]).key != proposals.key


def test_regions_are_asked_for_where_they_are_needed(proposals: Proposals) -> None:
    with pytest.raises(InputError, match="by regions: needs region embeddings"):
        segmenter("regions", proposals, TEXT, SPLIT, FUSION)


def test_another_file_is_refused(proposals: Proposals, tmp_path: Path) -> None:
    meta = SPLIT.describe()
    tiny.write_label_maps(tmp_path / "labels.h5", ["a"], [void(2, 2)], schema=LABELS, meta=meta)
    with pytest.raises(ArtifactError, match="holds 'labels/2', not 'proposals/1'"):
        Proposals.open(tmp_path / "labels.h5")


# --- pseudo-labels ---------------------------------------------------------------------------------


def void(*shape: int) -> np.ndarray:
    return np.full(shape, IGNORE_INDEX, np.uint8)


def scores_of(rows: Sequence[Sequence[float]]) -> Tensor:
    """Scores (k, 1, w) given one row per class."""
    return torch.tensor(rows)[:, None]


def test_where_seen_classes_are_known_void_pixels_get_the_best_unseen_one() -> None:
    scores = scores_of([[0.9, 0.9], [0.2, 0.1], [0.1, 0.3]])
    known = np.array([[0, IGNORE_INDEX]], np.uint8)
    labels, sure = best_unseen(scores, known, [0, 3, 4], [3, 4])
    assert labels.tolist() == [[3, 4]]
    assert sure.tolist() == [[51, 76]]


def test_where_nothing_is_known_an_unseen_class_must_be_best_of_all() -> None:
    scores = scores_of([[0.9, 0.2], [0.2, 0.1], [0.1, 0.3]])
    labels, _ = best_unseen(scores, void(1, 2), [0, 3, 4], [3, 4])
    assert labels.tolist() == [[IGNORE_INDEX, 4]]


def write_pseudo(found: ProposalSegmenter, folder: Path, rule: str) -> list[np.ndarray]:
    known = [void(32, 32), void(32, 32)]
    known[0][:8] = 0
    params = ProposalPseudoLabels(rule=rule, quantile=0.0)
    folder.mkdir()
    label(found, known, params, folder / "st.h5", scratch=folder)
    return list(open_pseudo_labels(folder / "st.h5")[0])


def test_the_released_rule_labels_everything_that_is_not_known(
    proposals: Proposals, tmp_path: Path
) -> None:
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    first, second = write_pseudo(found, tmp_path / "released", "released")
    assert rows_of(first) == [0, 4, 4, 4]
    assert rows_of(second) == [4, 4, 4, 4]


def test_the_careful_rule_leaves_void_what_it_cannot_tell(
    proposals: Proposals, tmp_path: Path
) -> None:
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    first, second = write_pseudo(found, tmp_path / "careful", "quantile")
    assert rows_of(first) == [0, 4, 4, 4]
    assert rows_of(second) == [IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 4]


@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.9])
def test_at_most_the_quantile_of_a_class_becomes_void(
    proposals: Proposals, tmp_path: Path, quantile: float
) -> None:
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    known = [np.where(np.eye(32) > 0, 1, IGNORE_INDEX).astype(np.uint8)] * 2
    params = ProposalPseudoLabels(quantile=quantile)
    label(found, known, params, tmp_path / "st.h5", scratch=tmp_path)
    labels, scores = open_pseudo_labels(tmp_path / "st.h5")
    unknown = np.stack(known) == IGNORE_INDEX
    given = np.stack(list(labels))[unknown]
    assert set(given) <= {4, IGNORE_INDEX}
    assert np.mean(given == IGNORE_INDEX) <= quantile
    assert (np.stack(list(labels))[~unknown] == 1).all()
    assert (np.stack(list(scores))[unknown][given == IGNORE_INDEX] == 0).all()


@pytest.mark.parametrize(("quantile", "warned"), [(0.5, False), (0.75, True)])
def test_a_share_that_saturated_scores_do_not_allow_is_told(
    proposals: Proposals,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    quantile: float,
    warned: bool,
) -> None:
    """Of what dog is given, all in the last quarter of the rows is at 255, and the rest is not."""
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    known = [np.repeat(np.uint8([[0], [255], [255], [255]]), 8, axis=0).repeat(32, axis=1)] * 2
    params = ProposalPseudoLabels(quantile=quantile)
    label(found, known, params, tmp_path / "st.h5", scratch=tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"simbaseline.self_training.labels.quantile: less than {quantile} of 'dog' becomes void, "
        f"for more than {1 - quantile} of it has the highest score there is"
    ] * warned
    given = np.stack(list(open_pseudo_labels(tmp_path / "st.h5")[0]))[:, 8:]
    assert (np.mean(given == IGNORE_INDEX) >= quantile) is not warned


def test_the_second_training_sees_each_image_once(proposals: Proposals, tmp_path: Path) -> None:
    found = segmenter("queries", proposals, TEXT, SPLIT, FUSION)
    seen_path, pseudo_path = tmp_path / "seen.h5", tmp_path / "st.h5"
    meta = SPLIT.describe()
    tiny.write_label_maps(seen_path, ["b", "c"], [void(32, 32)] * 2, schema=LABELS, meta=meta)
    seen = open_labels(seen_path)
    known = KnownLabels(found.ids, seen, lambda _: (32, 32))
    label(found, known, ProposalPseudoLabels(), pseudo_path, scratch=tmp_path)
    mixed = MixedLabels.of(seen, open_pseudo_labels(pseudo_path)[0])
    assert mixed.ids == ("c", "a", "b")
    assert len(mixed) == 3
    assert (mixed[0] == IGNORE_INDEX).all()
    assert (mixed[1] == 4).any()
