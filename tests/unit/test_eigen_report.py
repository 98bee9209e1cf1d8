"""The report's section on eigenvectors and fusion."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from zslib.artifacts.eigenvectors import Eigenvectors
from zslib.artifacts.maps import LabelMaps
from zslib.metrics import confusion_matrix
from zslib.report.eigenvectors import eigenvector_pictures, load_eigenvectors
from zslib.report.leaderboard import METHODS, Scores
from zslib.report.results import Result, choices_of
from zslib.spectral.nodes import index_folder

SIDE = 16
IDS = tiny.image_ids(2)
TAU = {"candidates": [1.1, 0.5], "hiou": [[0.1, 0.2]], "held_out": [["a"]], "chosen": 0.5}
GAMMA = {"candidates": [0.0, 0.5], "hiou": [[0.1, 0.2]], "held_out": [["a"]], "chosen": 0.5}


def label_maps(maps: list[np.ndarray]) -> LabelMaps:
    sizes = np.array([m.shape for m in maps])
    return LabelMaps(IDS, sizes, np.concatenate([m.reshape(-1) for m in maps]), {})


def result(method: str, maps: list[np.ndarray], **details: object) -> Result:
    scores = Scores.model_construct(method=method, protocol="clean", setting="inductive")
    matrix = confusion_matrix(maps[0], maps[0], len(tiny.CLASSES))
    return Result(scores, tiny.SPLIT, matrix, label_maps(maps), details)


TRUTH = tiny.block_maps(2, (*tiny.SPLIT.seen[:2], *tiny.UNSEEN), side=SIDE)
OTHER = [np.full_like(m, tiny.UNSEEN[0]) for m in TRUTH]
SEEN = [np.full_like(m, tiny.SPLIT.seen[0]) for m in TRUTH]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Fusion changes nothing of SPNet, and all of ZS3Net."""
    for name in ("spnet", "zs3net"):
        monkeypatch.setitem(METHODS, f"{name}+eig", f"{METHODS[name]} + eig")
    return [
        result("spnet", SEEN, gamma=GAMMA),
        result("spnet+eig", SEEN, gamma=GAMMA, tau=TAU),
        result("zs3net", SEEN),
        result("zs3net+eig", OTHER, tau=TAU),
        result("joem", OTHER),
    ]


@pytest.fixture
def eigenvectors() -> Eigenvectors:
    halves = np.where(np.arange(16) % 4 < 2, 1, -1).reshape(-1, 1)
    columns = np.concatenate([halves, np.zeros((16, 1))], axis=1).astype(np.float16)
    return Eigenvectors(
        np.concatenate([columns, columns]),
        np.array([[0, 0.25, 0.5]] * 2),
        np.array([0, 16, 32]),
        np.array([[4, 4]] * 2, np.int32),
        np.ones((2, 2)),
        IDS,
        {"aligned": "corners"},
    )


def test_a_picture_shows_vectors_segments_before_and_after(
    results: list[Result], eigenvectors: Eigenvectors, tmp_path: Path
) -> None:
    for image_id in IDS:
        Image.new("RGB", (SIDE, SIDE), (90, 120, 30)).save(tmp_path / f"{image_id}.png")
    (picture,) = eigenvector_pictures(
        eigenvectors,
        results,
        images=index_folder(tmp_path),
        truth=label_maps(TRUTH),
        count=1,
    )
    titles = [tile.title for tile in picture.tiles]
    assert titles == "Image,Truth,v1,v2,Segments,ZS3Net,ZS3Net + eig".split(",")
    assert [tile.note for tile in picture.tiles[2:5]] == ["λ 0.25", "λ 0.50", "2"]
    before, after = (tile.unseen_iou for tile in picture.tiles[5:])
    assert before == 0
    assert after > 0


def test_a_fused_row_repeats_no_choice_of_the_row_it_fuses(results: list[Result]) -> None:
    shown = [(choice.method, choice.parameter) for choice in choices_of(results)]
    assert shown == [("spnet", "gamma"), ("spnet+eig", "tau"), ("zs3net+eig", "tau")]


def test_without_a_fused_row_no_eigenvectors_are_read(
    results: list[Result], tmp_path: Path
) -> None:
    assert load_eigenvectors(results[:1], tmp_path) is None
