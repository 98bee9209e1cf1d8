"""Split files of HSNet, and the episodes drawn from them (sazs §1.2, §1.4)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.compose_params import compose
from zslib.datasets.folds import Pair, coco_pairs, cycled, drawn, pascal_pairs, read_pairs
from zslib.errors import InputError
from zslib.params import load_params
from zslib.params.benchmark import BenchmarkParams
from zslib.params.sazs import SazsFolds

RECORDS = ["2007_000033__01", "2007_000061__04", "2007_000061__15"]


def write_lists(root: Path) -> SazsFolds:
    """Write a list of one record for each fold, class 5f + 1, in both folders."""
    for folder in ("trn", "val"):
        (root / folder).mkdir(parents=True)
        for fold in range(4):
            text = f"{folder}_{fold}__{5 * fold + 1:02}\n"
            (root / folder / f"fold{fold}.txt").write_text(text)
    return SazsFolds(layout="pascal", root=str(root))


def write_pickle(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path


# --- PASCAL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", ""])
def test_sazs_section_1_2_no_record_is_lost_for_want_of_a_trailing_newline(
    tmp_path: Path, end: str
) -> None:
    (tmp_path / "fold0.txt").write_text("\n".join(RECORDS) + end)
    found = pascal_pairs(tmp_path / "fold0.txt")
    assert found == (Pair("2007_000033", 1), Pair("2007_000061", 4), Pair("2007_000061", 15))


@pytest.mark.parametrize("line", ["2007_000033", "2007_000033__00", "2007_000033__21", "a b__03"])
def test_a_malformed_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "fold0.txt").write_text(f"{RECORDS[0]}\n{line}\n")
    with pytest.raises(InputError, match=rf"fold0\.txt: '{line}'"):
        pascal_pairs(tmp_path / "fold0.txt")


def test_sazs_section_1_2_a_fold_trains_on_the_lists_of_the_others(tmp_path: Path) -> None:
    params = write_lists(tmp_path)
    assert read_pairs(params, "fold2", "val") == (Pair("val_2", 11),)
    expected = (Pair("trn_0", 1), Pair("trn_1", 6), Pair("trn_3", 16))
    assert read_pairs(params, "fold2", "train") == expected


def test_a_split_that_is_no_fold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not for 'u4'"):
        read_pairs(write_lists(tmp_path), "u4", "val")


# --- COCO ----------------------------------------------------------------------------------------


def test_coco_pairs_have_stems_and_the_benchmarks_ids(tmp_path: Path) -> None:
    content = {1: ["val2014/COCO_val2014_000000000042.jpg"], 0: ["val2014/b.jpg"], 2: []}
    write_pickle(tmp_path / "val/fold1.pkl", content)
    found = read_pairs(SazsFolds(layout="coco", root=str(tmp_path)), "fold1", "val")
    assert found == (Pair("b", 1), Pair("COCO_val2014_000000000042", 2))


class Harmful:
    def __reduce__(self) -> object:
        return Path.unlink, (Path("never"),)


@pytest.mark.parametrize(
    "content", [Harmful(), {0: Harmful()}, [1], {"a": []}, {0: [1]}, np.float64(1)]
)
def test_only_plain_dictionaries_are_unpickled(tmp_path: Path, content: object) -> None:
    path = write_pickle(tmp_path / "fold0.pkl", content)
    with pytest.raises(InputError, match=r"fold0\.pkl"):
        coco_pairs(path)


def test_a_damaged_pickle_is_named(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "fold0.pkl", {0: ["a.jpg"]})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="is no plain pickle"):
        coco_pairs(path)


# --- episodes ------------------------------------------------------------------------------------


def test_sazs_section_1_4_pascal_cycles_through_its_list() -> None:
    pairs = [Pair(str(index), 1) for index in range(346)]  # fold 0
    episodes = cycled(pairs, 1000)
    times = [episodes.count(pair) for pair in pairs]
    assert times == [3] * 308 + [2] * 38


def test_sazs_check_8_the_first_class_of_every_coco_fold() -> None:
    """Position 18 of 20, as 72, 73, 74 and 75 are: the draw is the legacy one without replacement."""
    for fold, expected in enumerate((72, 73, 74, 75)):
        classes = [fold + 4 * v for v in range(20)]
        (first,) = drawn([Pair("a", c) for c in classes], classes, 1)
        assert first.class_id == expected


def test_sazs_check_8_two_draws_per_episode_and_nothing_else() -> None:
    pairs = [Pair(f"{c}-{n}", c) for c in (3, 5, 8) for n in range(c)]
    np.random.seed(0)  # noqa: NPY002 - as published
    expected = []
    for _ in range(50):
        (chosen,) = np.random.choice([3, 5, 8], 1, replace=False)  # noqa: NPY002
        images = [pair.image_id for pair in pairs if pair.class_id == chosen]
        (image,) = np.random.choice(images, 1, replace=False)  # noqa: NPY002
        expected.append(Pair(str(image), int(chosen)))
    assert drawn(pairs, [3, 5, 8], 50) == expected


def test_a_class_without_images_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="class 5 is in no image"):
        drawn([Pair("a", 3)], [3, 5], 1)


@given(st.integers(1, 40), st.integers(1, 200))
def test_cycling_visits_all_pairs_equally_often(size: int, count: int) -> None:
    pairs = [Pair(str(index), 1) for index in range(size)]
    times = [cycled(pairs, count).count(pair) for pair in pairs]
    assert sum(times) == count
    assert max(times) - min(times) <= 1


# --- benchmarks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("pascal5i", 20), ("coco20i", 80)])
def test_sazs_section_1_1_folds(name: str, size: int, tmp_path: Path) -> None:
    compose(tmp_path / "params.yaml", f"benchmark={name}")
    params = load_params(tmp_path / "params.yaml")
    benchmark = params.benchmark
    assert len(benchmark.classes) == size + 1
    assert benchmark.classes[0] == "background"
    assert params.splits == [f"fold{fold}" for fold in range(4)]
    for fold in range(4):
        expected = (
            [5 * fold + v for v in range(5)]
            if name == "pascal5i"
            else [fold + 4 * v for v in range(20)]
        )
        assert ids_of(benchmark, f"fold{fold}") == expected


def ids_of(benchmark: BenchmarkParams, split: str) -> list[int]:
    """Return the ids of the files, which leave the background out."""
    return [benchmark.classes.index(name) - 1 for name in benchmark.unseen[split]]


PUBLISHED = {
    "pascal_vit": ("pascal5i", "vit", 0.0, 0.001, 20, "pairs", 512),
    "coco_vit": ("coco20i", "vit", 0.0, 0.0002, 20, "classes", 512),
    "pascal_drn": ("pascal5i", "drn", 0.95, 0.001, 40, "pairs", "native"),
    "coco_drn": ("coco20i", "drn", 0.9, 0.001, 10, "classes", 512),
}


@pytest.mark.parametrize("column", PUBLISHED)
def test_sazs_section_5_published_settings(column: str, tmp_path: Path) -> None:
    benchmark, architecture, dropout, lr, epochs, draw, input_size = PUBLISHED[column]
    compose(tmp_path / "params.yaml", f"benchmark={benchmark}", f"+sazs={column}")
    sazs = load_params(tmp_path / "params.yaml").sazs
    assert (sazs.model.architecture, sazs.model.dropout) == (architecture, dropout)
    assert sazs.input_size == input_size
    training, optimiser = sazs.training, sazs.training.optimiser
    assert (training.epochs, training.batch_size, training.draw) == (epochs, 6, draw)
    assert training.augmentation.crop_size == 512
    assert (optimiser.name, optimiser.lr, optimiser.momentum) == ("sgd", lr, 0.9)
    assert (optimiser.weight_decay, training.head_lr_factor) == (1e-4, 1.0)
    assert (training.views, training.lr_per_epoch) == ("released", True)
    objectives = sazs.objectives
    assert (objectives.form, objectives.void, objectives.edges) == ("sazs", "others", "released")
    assert (objectives.joint_weight, objectives.others) == (0.0, "background")
    weights = (
        objectives.edge_weight,
        objectives.attention_weight,
        objectives.inverse_weight,
    )
    assert weights == (0.3, 0.1, 0.3)
