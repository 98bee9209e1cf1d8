"""Writes one artifact of each kind in a process of its own; `test_resume.py` compares the bytes."""

import sys
from pathlib import Path

from tests import tiny
from zslib.artifacts.features import DenseMaps, PixelBank
from zslib.artifacts.maps import open_labels
from zslib.features import Photographs, extract, plan_bank
from zslib.methods.spnet import frozen
from zslib.methods.zs3net import classifier as zs3net_classifier
from zslib.methods.zs3net.generator import fit_generators, save_generators
from zslib.params.backbone import FeatureParams
from zslib.params.evaluation import SelectionParams
from zslib.params.training import LinearTraining, OptimiserParams
from zslib.params.zs3net import ClassifierParams, GeneratorParams
from zslib.training import SingleProcess


def write_everything(folder: Path) -> None:
    """Write a bank, dense maps, a generator, and classifiers, as the stages do."""
    maps = tiny.block_maps(8, tiny.SPLIT.seen)
    meta = {"labels": tiny.SPLIT.describe(), "ids": list(tiny.image_ids(8))}
    params = FeatureParams(short_side=32, rows_per_class=5)
    images = tiny.write_images(folder / "images", maps)
    photographs = Photographs.of(images, [(32, 32)] * 8, short_side=32, stride=4)
    extract(
        lambda batch: batch[:, :, ::4, ::4].float() / 255,
        photographs,
        {folder / "extracted.h5": plan_bank(photographs, maps, params, seed=0, meta=meta)},
        dimension=3,
        batch_size=3,
        runtime=SingleProcess(),
        scratch=folder / "scratch",
    )
    labels = tiny.label_maps(16, tiny.SPLIT.seen, seed=0)
    bank = PixelBank.open(tiny.write_bank(folder / "bank.h5"))
    tuning = DenseMaps.open(tiny.write_maps(folder / "tuning.h5", labels[:4]))
    seen_labels = open_labels(tiny.write_labels(folder / "labels.h5", labels))
    selection = SelectionParams(held_out=1)
    training = LinearTraining(
        optimiser=OptimiserParams(name="adam", lr=0.02), steps=20, batch_size=64
    )
    inputs = frozen.Inputs(bank, tuning, seen_labels, tiny.EMBEDDINGS)
    frozen.fit(inputs, training, [0.0, 0.5], selection, seed=0).save(folder / "spnet")
    generators = fit_generators(
        bank,
        tiny.EMBEDDINGS,
        GeneratorParams(hidden=16, noise_dimension=4, rows=16, steps=20),
        selection,
        tuning_ids=tuning.ids,
        seed=0,
    )
    save_generators(folder / "generator", generators)
    zs3net_classifier.fit(
        bank,
        tuning,
        seen_labels,
        generators,
        tiny.EMBEDDINGS,
        ClassifierParams(training=training, unseen_weights=[1.0, 10.0]),
        seed=0,
    ).save(folder / "zs3net")


if __name__ == "__main__":
    write_everything(Path(sys.argv[1]))
