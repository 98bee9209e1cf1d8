"""`zslib plan`: its arithmetic against artifacts that are really written, its survey, its refusal."""

import itertools
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

import zslib.plan
from tests import tiny
from tools.compose_params import compose
from zslib.artifacts.eigenvectors import EIGENVECTORS
from zslib.artifacts.features import BANK, DENSE, DenseMaps
from zslib.artifacts.graphs import GRAPHS
from zslib.artifacts.maps import LABELS, PREDICTIONS, PSEUDO, open_labels, write_pseudo_labels
from zslib.artifacts.proposals import PROPOSALS, ProposalWriter
from zslib.artifacts.regions import REGIONS, RegionWriter
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import open_arrays
from zslib.backbones.drn import PooledDrn
from zslib.backbones.trained import Backbone, build_network
from zslib.backbones.vit import ReadoutViT
from zslib.backbones.vit_keys import KeyExtractor
from zslib.benchmark import Split
from zslib.classifier import PixelClassifier
from zslib.cli import main
from zslib.competitors import COMPETITORS, write_competitors
from zslib.datasets.index import ImageEntry, ImageIndex
from zslib.errors import InputError
from zslib.evaluation import evaluate, save
from zslib.features import Photographs, extract, plan_bank, plan_dense
from zslib.graphs import image_graphs
from zslib.grids import feature_grid
from zslib.methods.cagnet.maps import BankPlan, write_gated
from zslib.methods.cagnet.networks import ContextualModule
from zslib.methods.sazs.networks import Trained
from zslib.methods.simbaseline.fcn import FCN, PixelEmbedder
from zslib.methods.simbaseline.network import MaskFormer, Proposer
from zslib.methods.simbaseline.pixel_level import starting_encoder
from zslib.metrics import CONFUSION
from zslib.params import Params, load_params
from zslib.params.backbone import EncoderParams, FeatureParams
from zslib.params.cagnet import CagnetNetworks
from zslib.params.eigenvectors import EigenvectorParams
from zslib.params.sazs import SazsModel
from zslib.params.simbaseline import ViewParams, WindowParams, WindowScale
from zslib.plan import (
    Forecast,
    Pace,
    Stage,
    Survey,
    forecast,
    measure,
    read_stages,
    refuse_what_does_not_fit,
    sizes,
    table,
)
from zslib.plan.clip import shared_dimension
from zslib.plan.facts import Facts
from zslib.plan.graph import State, split_of
from zslib.plan.networks import WORDS, of_backbone, of_fcn, workloads
from zslib.plan.pace import NetworkPace, training_memory
from zslib.plan.pieces import pieces
from zslib.plan.rules import RULES
from zslib.segmenters import HeadSegmenter
from zslib.spectral.extraction import extract as extract_eigenvectors
from zslib.spectral.nodes import MapNodes
from zslib.training import SingleProcess

PROJECT = Path(__file__).resolve().parents[2]
SIZES = [(40, 30), (30, 40), (37, 29)]
"""(width, height)"""
DIMENSION, SHORT_SIDE, STRIDE = 6, 24, 4
MIB, GIB = 2**20, 2**30
PACE = Pace(
    "cpu",
    {
        "backbone": NetworkPace(1e-6, 1e-7, 5 * GIB, 3 * MIB),
        "sazs": NetworkPace(2e-6, 2e-7, 6 * GIB, 4 * MIB),
        "simbaseline": NetworkPace(3e-6, 3e-7, 7 * GIB, 5 * MIB),
        "fcn": NetworkPace(4e-6, 4e-7, 8 * GIB, 6 * MIB),
    },
    {
        "generator step": 1e-3,
        "cagnet window": 2e-2,
        "cagnet row": 4e-5,
        "classified pixel": 5e-8,
        "pixel between competitors": 6e-8,
        "pixel under masks": 7e-8,
        "pixel for CLIP": 8e-7,
        "text for CLIP": 9e-3,
    },
)


def payload(path: Path, schema: Schema) -> int:
    """Bytes of the arrays of an artifact."""
    return sum(array.nbytes for array in open_arrays(path, schema=schema)[0].values())


def maps_of_sizes(classes: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, classes, (height, width)).astype(np.uint8) for width, height in SIZES]


@pytest.fixture(scope="module")
def voc12(tmp_path_factory: pytest.TempPathFactory) -> Params:
    path = tmp_path_factory.mktemp("voc12") / "params.yaml"
    compose(path, "benchmark=voc12")
    return load_params(path)


def per_pixel(params: Params, **changes: object) -> Params:
    """Return the same with other settings of SimBaseline's per-pixel variants."""
    fcn = params.simbaseline.fcn.model_copy(update=changes)
    simbaseline = params.simbaseline.model_copy(update={"fcn": fcn})
    return params.model_copy(update={"simbaseline": simbaseline})


# --- arithmetic ----------------------------------------------------------------------------------


def test_bank_and_dense_maps_are_as_large_as_extraction_writes_them(tmp_path: Path) -> None:
    maps = maps_of_sizes()
    images = tiny.write_images(tmp_path / "images", maps)
    photographs = Photographs.of(images, SIZES, short_side=SHORT_SIDE, stride=STRIDE)
    params = FeatureParams(short_side=SHORT_SIDE, rows_per_class=5)
    ids = tiny.image_ids(len(SIZES))
    described = {"labels": tiny.SPLIT.describe(), "ids": list(ids)}
    bank = plan_bank(photographs, maps, params, seed=0, meta=described)

    def features_of(batch: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(batch), DIMENSION, *feature_grid(tuple(batch.shape[-2:]), STRIDE))

    files = {tmp_path / "bank.h5": bank, tmp_path / "maps.h5": plan_dense(photographs, ids)}
    extract(
        features_of, photographs, files, dimension=DIMENSION, batch_size=2,
        runtime=SingleProcess(), scratch=tmp_path / "scratch",
    )  # fmt: skip
    rows = sum(bank.counts)
    assert rows == len(SIZES) * 3 * 5  # every map shows its three classes in plenty
    assert payload(tmp_path / "bank.h5", BANK) == sizes.pixel_bank(rows, DIMENSION, len(SIZES))
    grids = sizes.feature_grids(SIZES, short_side=SHORT_SIDE, stride=STRIDE)
    assert payload(tmp_path / "maps.h5", DENSE) == sizes.dense_maps(grids, DIMENSION)


def test_label_maps_and_pseudo_labels_are_as_large_as_written(tmp_path: Path) -> None:
    maps, ids = maps_of_sizes(), tiny.image_ids(len(SIZES))
    tiny.write_labels(tmp_path / "labels.h5", maps)
    assert payload(tmp_path / "labels.h5", LABELS) == sizes.label_maps(SIZES)
    shapes, pairs = [m.shape for m in maps], [(m, m) for m in maps]
    write_pseudo_labels(tmp_path / "pseudo.h5", ids, shapes, pairs, meta={})
    assert payload(tmp_path / "pseudo.h5", PSEUDO) == sizes.pseudo_labels(SIZES)


def test_an_evaluation_is_as_large_as_written(tmp_path: Path) -> None:
    labels = open_labels(tiny.write_labels(tmp_path / "labels.h5", maps_of_sizes(9)))
    maps = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", maps_of_sizes(9)))
    classes = len(tiny.CLASSES)
    head = PixelClassifier(tiny.SPLIT, torch.zeros(classes, tiny.DIMENSION), torch.zeros(classes))
    segmenter, out = HeadSegmenter(head, maps), tmp_path / "predictions.h5"
    save(evaluate(segmenter, labels, out, resolution="original"), tmp_path / "confusion.h5")
    written = payload(tmp_path / "confusion.h5", CONFUSION) + payload(out, PREDICTIONS)
    assert written == sizes.evaluation(SIZES, classes)


def test_gated_maps_and_their_bank_are_as_large_as_written(tmp_path: Path) -> None:
    grids = tiny.label_maps(4, tiny.SPLIT.seen, seed=0)
    maps = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", grids))
    networks = CagnetNetworks(
        context_channels=4, generator_hidden=[8], generator_dropout=[0.0], shared_hidden=8
    )
    context = ContextualModule(tiny.DIMENSION, networks)
    plan = BankPlan.of(grids, tiny.SPLIT, rows_per_image=7, seed=0)
    bank = (tmp_path / "bank.h5", plan)
    write_gated(tmp_path / "gated.h5", context, maps, SingleProcess(), bank=bank)
    written = payload(tmp_path / "gated.h5", DENSE) + payload(tmp_path / "bank.h5", BANK)
    before = payload(tmp_path / "maps.h5", DENSE)
    expected = sizes.gated_maps([before], bank_rows=4 * 7, images=4, dimension=tiny.DIMENSION)
    assert written == expected


def test_proposals_are_as_large_as_written(tmp_path: Path) -> None:
    views = ViewParams(short_sides=[40], long_side=50)
    resized_views = [(38, 50), (50, 38), (39, 50)]  # the long side lets none be 40 high
    padded, queries, dimension = [(64, 64)] * 3, 5, 7
    writer = ProposalWriter(
        tmp_path / "val.h5", resized_views, padded,
        queries=queries, no_object=torch.zeros(dimension), scratch=tmp_path / "scratch",
    )  # fmt: skip
    for _ in SIZES:
        writer.add(torch.zeros(queries, 16, 16), torch.zeros(queries, dimension))
    writer.publish(tiny.image_ids(len(SIZES)), meta=tiny.SPLIT.describe())
    expected = sizes.proposals(SIZES, views, queries=queries, dimension=dimension)
    assert payload(tmp_path / "val.h5", PROPOSALS) == expected


def test_regions_are_as_large_as_written(tmp_path: Path) -> None:
    out = tmp_path / "val.h5"
    writer = RegionWriter(out, images=3, queries=5, dimension=7, scratch=tmp_path / "scratch")
    for position in writer.to_do():
        writer.add(position, torch.zeros(5, 7), torch.ones(5, dtype=torch.bool))
    writer.publish(tiny.image_ids(3), meta={})
    assert payload(out, REGIONS) == sizes.regions(3, queries=5, dimension=7)


def test_eigenvectors_are_as_large_as_written(tmp_path: Path) -> None:
    grids = tiny.block_maps(2, tiny.SPLIT.seen, side=12) + tiny.block_maps(1, [0], side=10)
    maps = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", grids))
    extract_eigenvectors(
        MapNodes([maps], None), EigenvectorParams(vectors=4), tmp_path / "eigenvectors.h5",
        processes=1, device=torch.device("cpu"), scratch=tmp_path / "scratch",
    )  # fmt: skip
    expected = sizes.eigenvectors([grid.shape for grid in grids], 4)
    assert payload(tmp_path / "eigenvectors.h5", EIGENVECTORS) == expected


def test_competitors_are_as_large_as_written(tmp_path: Path) -> None:
    labels = open_labels(tiny.write_labels(tmp_path / "labels.h5", maps_of_sizes()))
    maps = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", maps_of_sizes()))
    weight = torch.zeros(len(tiny.CLASSES), tiny.DIMENSION)
    classifier = PixelClassifier(tiny.SPLIT, weight, torch.zeros(len(weight)))
    write_competitors(tmp_path / "competitors.h5", classifier, maps, labels)
    assert payload(tmp_path / "competitors.h5", COMPETITORS) == sizes.competitors(SIZES)


def test_graphs_are_as_large_as_written(tmp_path: Path) -> None:
    maps, short, stride = maps_of_sizes(), SHORT_SIDE, STRIDE
    labels = open_labels(tiny.write_labels(tmp_path / "labels.h5", maps))
    shapes = sizes.feature_grids(SIZES, short_side=short, stride=stride)
    grids = [np.zeros(shape, np.uint8) for shape in shapes]
    features = DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", grids))
    graphs = image_graphs(features, labels, label_rule="floor", node_features="mean")
    graphs.save(tmp_path / "graphs.h5")
    expected = sizes.graphs(len(graphs.labels), len(graphs.edges), 3, tiny.DIMENSION)
    assert payload(tmp_path / "graphs.h5", GRAPHS) == expected


@pytest.mark.parametrize("view", [(512, 512), (375, 500), (33, 47)])
def test_grids_of_sazs_are_those_of_its_networks(view: tuple[int, int]) -> None:
    encoder = EncoderParams(name="vit_tiny_patch16_224")
    with torch.device("meta"):
        vit = ReadoutViT(encoder, 8, pretrained=False)
        drn = PooledDrn(EncoderParams(name="drn_d_105"), 8, dropout=0.0)
    for architecture, network in (("vit", vit), ("drn", drn)):
        model = SazsModel(architecture=architecture, encoder=encoder)
        assert sizes.margin_grids([view], model, stride=4) == [network.grid(view)]
    own = SazsModel(architecture="seen_only")
    assert sizes.margin_grids([view], own, stride=4) == [feature_grid(view, 4)]


def test_patches_are_told_by_the_encoder_s_name() -> None:
    grids = [KeyExtractor.grid(SimpleNamespace(patch=8), size) for size in SIZES]
    assert sizes.patch_grids(SIZES, EncoderParams(name="vit_base_patch8_224.dino")) == grids
    assert sizes.patch_grids(SIZES, EncoderParams(name="resnet50")) is None


def test_simbaseline_section_11_mask_logits_of_a_640x853_image() -> None:
    views = ViewParams(short_sides=[640], long_side=2560)
    logits = sizes.proposals([(853, 640)], views, queries=100, dimension=0)
    assert logits / MIB == pytest.approx(6.6, abs=0.05)


@pytest.mark.parametrize(
    ("short_side", "mebibytes"),
    [(312, 3.96), (375, 5.74), (513, 10.77)],
)
def test_zs3net_section_10_sizes_of_a_500x375_photograph(short_side: int, mebibytes: float) -> None:
    grids = sizes.feature_grids([(500, 375)], short_side=short_side, stride=4)
    assert sizes.dense_maps(grids, 256) / MIB == pytest.approx(mebibytes, abs=0.006)


def test_zs3net_section_10_the_bank_of_all_of_voc_is_under_four_gibibytes(voc12: Params) -> None:
    survey = Survey.of(voc12, Path("nowhere"))
    facts = Facts(voc12, survey, PACE)
    rows = facts.bank_rows(survey.train, 256)
    assert rows * 256 * 2 <= 3.2 * GIB  # the features alone
    assert voc12.features.rows_per_class <= 256
    assert sizes.pixel_bank(rows, 256, len(survey.train)) < 4 * GIB


# --- survey --------------------------------------------------------------------------------------


def test_without_an_index_the_published_counts_stand_in(voc12: Params) -> None:
    survey = Survey.of(voc12, Path("nowhere"))
    assert (len(survey.train), len(survey.val)) == (10_582, 1_449)
    kept = [len(survey.kept(f"u{k}")) for k in (2, 4, 6, 8, 10)]
    assert kept == [9_836, 8_762, 7_334, 6_286, 5_408]  # zs3net §1.5, joem §1.1 and J11
    assert [images // 32 for images in kept] == [307, 273, 229, 196, 169]
    assert len(survey.unlabelled("u4")) == 1_820
    assert not survey.is_counted


def test_nothing_published_tells_of_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(PROJECT / "params.yaml")
    monkeypatch.chdir(tmp_path)  # where data/world is not
    with pytest.raises(InputError, match=r"world/index: missing.*dvc repro index"):
        Survey.of(params, Path("nowhere"))


def test_the_counts_of_the_benchmark_itself_go_before_those_of_voc(voc12: Params) -> None:
    dataset = voc12.dataset.model_copy(update={"published": {"train": 7, "val": 5}})
    survey = Survey.of(voc12.model_copy(update={"dataset": dataset, "splits": ["x"]}), Path("no"))
    assert (len(survey.train), len(survey.val)) == (7, 5)
    other = voc12.dataset.model_copy(update={"layout": "cocostuff", "published": {"val": 5}})
    with pytest.raises(InputError, match="index: missing"):
        Survey.of(voc12.model_copy(update={"dataset": other}), Path("no"))


def with_other(params: Params, section: str, **changes: object) -> Params:
    """Return the same with other settings in one section."""
    changed = getattr(params, section).model_copy(update=changes)
    return params.model_copy(update={section: changed})


def test_without_an_index_the_images_that_the_dataset_lists_are_counted(
    voc12: Params, tmp_path: Path
) -> None:
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    photographs = tmp_path / "VOC2012" / "JPEGImages"
    lists.mkdir(parents=True)
    photographs.mkdir()
    for role, count in (("train", 210), ("val", 3)):
        names = [f"{role}{i}" for i in range(count)]
        (lists / f"{role}.txt").write_text("\n".join(sorted(names)))
        for name, size in zip(sorted(names), itertools.cycle(SIZES), strict=False):
            Image.new("RGB", size).save(photographs / f"{name}.jpg")
    params = with_other(voc12, "dataset", root=str(tmp_path), lists="train")
    survey = Survey.of(params, Path("nowhere"))
    assert (len(survey.train), list(survey.val)) == (210, SIZES)
    assert set(survey.train) == set(SIZES)
    assert len(survey.kept("u2")) == 210 * 9_836 // 10_582  # zs3net §1.5
    assert survey.is_counted
    (photographs / f"{names[0]}.jpg").unlink()
    with pytest.raises(InputError, match=rf"{names[0]}\.jpg: cannot be read.*zslib doctor"):
        Survey.of(params, Path("nowhere"))
    (lists / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt: "):
        Survey.of(params, Path("nowhere"))


def test_published_counts_are_not_of_any_dataset_in_the_layout_of_voc(voc12: Params) -> None:
    with pytest.raises(InputError, match=r"mine/index: missing.*dvc repro index"):
        Survey.of(with_other(voc12, "benchmark", name="mine"), Path("nowhere"))


def write_index(artifacts: Path, split: Split = tiny.SPLIT) -> None:
    """Three training images of which the split leaves two, and one validation image."""
    entries = tuple(
        ImageEntry(id=f"i{i}", role=role, path="x", width=w, height=h, xxh3="0")
        for i, (role, (w, h)) in enumerate([*(("train", s) for s in SIZES), ("val", (10, 20))])
    )
    ImageIndex(root="data", images=entries).save(artifacts / "index" / "images.json")
    tiny.write_labels(artifacts / "u4" / "seen_labels.h5", maps_of_sizes()[:2], split=split)


def test_an_index_and_seen_labels_are_counted(tmp_path: Path) -> None:
    write_index(tmp_path)
    survey = Survey.of(load_params(PROJECT / "params.yaml"), tmp_path)
    assert survey.is_counted
    assert (survey.train, survey.val) == (SIZES, [(10, 20)])
    assert survey.kept("u4") == SIZES[:2]
    assert survey.unlabelled("u4") == SIZES[2:]
    assert survey.kept("another") == survey.unlabelled("another") == SIZES
    assert survey.classes_per_image == 3.0


def test_without_drop_self_training_labels_every_image(tmp_path: Path) -> None:
    write_index(tmp_path)
    compose(tmp_path / "params.yaml", "benchmark.unseen_images=ignore")
    survey = Survey.of(load_params(tmp_path / "params.yaml"), tmp_path)
    assert survey.unlabelled("u4") == SIZES
    assert survey.kept("u4") == SIZES[:2]


def test_segments_are_counted_on_the_feature_grid(tmp_path: Path) -> None:
    halves = np.repeat(np.array([[0, 0, 1, 255]], np.uint8), 4, axis=0).repeat(24, 0).repeat(24, 1)
    write_index(tmp_path)
    params = load_params(PROJECT / "params.yaml")
    tiny.write_labels(tmp_path / params.splits[0] / "seen_labels.h5", [halves, halves * 0])
    assert Survey.of(params, tmp_path).segments == (1.5, 0.5)  # void is no segment (zs3net §5)
    assert Survey.of(params.model_copy(update={"splits": ["none"]}), tmp_path).segments is None


# --- pace ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """The world's settings, and a backbone of some thousand parameters."""
    path = tmp_path_factory.mktemp("world") / "params.yaml"
    compose(path, "benchmark=world")
    changes = {"backbone": tiny.backbone(epochs=1), "compute": tiny.CPU}
    return load_params(path).model_copy(update=changes)


def test_memory_grows_by_the_same_bytes_with_every_image(small: Params) -> None:
    few, more, most = (
        training_memory(replace(of_backbone(small), batch_size=size)) for size in (2, 4, 6)
    )
    assert most - more == more - few > 0
    network = build_network(tiny.deeplab(), len(small.benchmark.classes), pretrained=False)
    parameters = sum(p.nbytes for p in network.parameters())
    assert few - (more - few) >= 3 * parameters  # weights, gradients, momentum


def test_the_measurement_is_of_the_networks_in_force(small: Params, tmp_path: Path) -> None:
    small = per_pixel(small, splits=["u4"])
    pace = measure(small)
    assert pace.device == "cpu"
    assert pace.networks.keys() == PACE.networks.keys()
    assert pace.pieces.keys() == PACE.pieces.keys()
    assert min(pace.pieces.values()) > 0
    for found in pace.networks.values():
        assert min(found.training, found.forward) > 0
        assert found.training_memory > 3 * found.size > 0
    backbone, classes = small.backbone.model, small.benchmark.classes
    split = Split.named("u", classes, unseen=[], void=[])
    start = Backbone(build_network(backbone, len(classes), pretrained=False), backbone, split)
    encoder, _ = starting_encoder(None, start, split)
    vectors, params = torch.ones(len(classes), WORDS), small.simbaseline.proposals.network
    written = {
        "backbone": start,
        "sazs": Trained.begin(small.sazs.model, start, split, (vectors, vectors[0]), "sazs"),
        "simbaseline": Proposer(MaskFormer(params, encoder, vectors), params, encoder, split),
        "fcn": PixelEmbedder(FCN(params, encoder, shared_dimension(small)), params, encoder, split),
    }
    for name, artifact in written.items():
        artifact.save(tmp_path / "network.safetensors")
        header = (tmp_path / "network.safetensors").stat().st_size - pace.networks[name].size
        assert 0 < header < 128 * 1024, name


def test_no_more_is_measured_than_the_splits_in_force_ask_for(small: Params) -> None:
    none = {
        "sazs": small.sazs.model_copy(update={"splits": []}),
        "simbaseline": small.simbaseline.model_copy(update={"splits": [], "proposal_splits": []}),
    }
    cpu, own = torch.device("cpu"), small.model_copy(update=none)
    assert workloads(own).keys() == {"backbone"}
    assert "pixel for CLIP" not in dict(pieces(own, cpu))
    unseen = {"unseen": {}, "trained_on": "another", "source_splits": ["u15"]}
    across = small.benchmark.model_copy(update=unseen)
    across = small.model_copy(update=none | {"benchmark": across, "splits": []})
    assert workloads(across).keys() == {"backbone", "simbaseline"}  # proposes, and does not learn
    assert dict(pieces(across, cpu)).keys() == {"pixel under masks", "pixel for CLIP"}


def test_memory_of_the_per_pixel_network_holds_the_loss_of_every_pixel_and_seen_class(
    small: Params,
) -> None:
    """Of a class more: its log-probability, kept, and two gradients as the backward pass begins."""
    stage = stage_of("simbaseline_fcn", "artifacts/world/u4/fcn.safetensors")
    survey, found = Survey([(64, 48)] * 8, [(64, 48)], 3.0), []
    for unseen in (4, 3, 2):
        names = small.benchmark.unseen["u4"][:unseen]
        benchmark = small.benchmark.model_copy(update={"unseen": {"u4": names}})
        params = per_pixel(small, splits=["u4"]).model_copy(update={"benchmark": benchmark})
        kept = training_memory(of_fcn(params))
        network = NetworkPace(1e-6, 1e-7, kept, MIB)
        pace = replace(PACE, networks={"fcn": network})
        (told,) = forecast([stage], params, survey, pace, Path("none"))
        found.append(told.cost.memory)
    training = small.simbaseline.fcn.training
    plane = training.batch_size * training.augmentation.crop_size**2 * 4
    more, still_more = np.diff(found)
    assert more == still_more
    assert 3 * plane <= more <= 3.2 * plane  # logits on the grid are a sixteenth


@pytest.mark.parametrize(
    ("architecture", "encoder"), [("vit", "vit_tiny_patch16_224"), ("drn", "drn_d_105")]
)
def test_published_networks_of_sazs_are_measured_with_random_weights(
    architecture: str, encoder: str, small: Params
) -> None:
    hub = EncoderParams(name=encoder, weights="hub")
    model = SazsModel(architecture=architecture, encoder=hub)
    sazs = small.sazs.model_copy(update={"model": model})
    work = workloads(small.model_copy(update={"sazs": sazs}))["sazs"]
    with torch.device("meta"):
        network = work.build()
        margins = work.train(network, torch.empty(2, 3, work.view, work.view))
    assert margins.shape[:2] == (2, len(small.benchmark.classes))
    assert margins.shape[2:] == network.embed.grid((work.view, work.view))


# --- the graph -----------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project of two stages, one after the other."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    stages = {
        "first": {"cmd": "cp input a", "deps": ["input"], "outs": ["a"]},
        "second": {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "input").write_text("1")
    return tmp_path


def states(project: Path) -> list[State]:
    return [stage.state for stage in read_stages(project)]


def test_stages_are_up_to_date_cached_or_to_run(shell: Path) -> None:
    from dvc.repo import Repo

    assert [stage.name for stage in read_stages(shell)] == ["first", "second"]
    assert states(shell) == ["to run", "to run"]
    Repo(str(shell)).reproduce()
    assert states(shell) == ["up to date", "up to date"]
    (shell / "input").write_text("2")
    assert states(shell) == ["to run", "to run"]
    Repo(str(shell)).reproduce()
    (shell / "input").write_text("1")
    assert states(shell) == ["cached", "to run"]
    assert (shell / "a").read_text() == "2"  # looking changed nothing


def test_an_edit_reruns_the_stages_that_run_it_alone(
    shell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    folder = "artifacts/code"
    write = f"mkdir -p {folder} && cut -c 1 input > {folder}/one.txt && echo > {folder}/two.txt"
    copies = {
        name: {
            "cmd": f"true -m stages.{name} && cp {folder}/{name}.txt {name}",
            "deps": [f"{folder}/{name}.txt"],
            "outs": [name],
        }
        for name in ("one", "two")
    }
    stages = {"code": {"cmd": write, "deps": ["input"], "outs": [folder]}} | copies
    (shell / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Repo(str(shell)).reproduce()
    found = {}
    for content in ("1 # a remark", "2"):
        (shell / "input").write_text(content)
        lists = {"one": f"{content[0]}\n", "two": "\n"}
        monkeypatch.setattr("zslib.code.code_lists", lists.items)
        found[content] = {stage.name: stage.state for stage in read_stages(shell)}
    assert found["1 # a remark"] == {"code": "to run", "one": "up to date", "two": "up to date"}
    assert found["2"] == {"code": "to run", "one": "to run", "two": "up to date"}


def test_a_folder_without_dvc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DVC cannot read its stages"):
        read_stages(tmp_path)


def test_a_stage_knows_its_module_its_options_and_its_split() -> None:
    stage = Stage("maps@u4", "exec python -m stages.maps --out a/u4/m.h5", ("a/u4/m.h5",), "to run")
    assert (stage.module, stage.option("--out"), stage.option("--x")) == ("maps", "a/u4/m.h5", None)
    assert split_of(stage, ["u2", "u4"]) == "u4"


def test_nothing_needs_dvc_before_the_graph_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc", None)
    monkeypatch.setitem(sys.modules, "dvc_data", None)
    assert "read_stages" in runpy.run_path(str(PROJECT / "zslib/plan/graph.py"))


# --- the forecast --------------------------------------------------------------------------------


def stage_of(module: str, out: str, *options: str, state: State = "to run") -> Stage:
    words = " ".join(options)
    return Stage(module, f"exec python -m stages.{module} {words} --out {out}", (out,), state)


def costs(stages: list[Stage], params: Params, timings: Path = Path("none")) -> list[Forecast]:
    return forecast(stages, params, Survey.of(params, Path("nowhere")), PACE, timings)


def test_seconds_and_bytes_of_a_voc_run(voc12: Params) -> None:
    folder = "artifacts/voc12/u4"
    backbone, features, val, official, unlabelled, generator = costs(
        [
            stage_of("backbone", f"{folder}/backbone"),
            stage_of("train_features", f"{folder}/features/train"),
            stage_of("maps", f"{folder}/features/val_maps.h5"),
            stage_of("maps", f"{folder}/o.h5", "--view", "zs3net.official_short_side"),
            stage_of("maps", f"{folder}/u.h5", "--unlabelled", "seen_labels.h5"),
            stage_of("zs3net_generator", f"{folder}/zs3net/generator.safetensors"),
        ],
        voc12,
    )
    images = voc12.backbone.epochs * (8_762 // 16) * 16  # zs3net §1.5, §2
    assert backbone.cost.seconds == pytest.approx(images * 312**2 * 1e-6)
    assert (backbone.cost.memory, backbone.cost.disk) == (5 * GIB, 3 * MIB)
    cells = 78 * 104  # zs3net §10
    assert val.cost.disk == 1_449 * (cells * 512 + 8)
    assert val.cost.seconds == pytest.approx(1_449 * 312 * 416 * 1e-7)
    assert official.cost.disk == 1_449 * (129 * 171 * 512 + 8)  # zs3net §1.7, §10
    assert official.cost.seconds == pytest.approx(1_449 * 513 * 684 * 1e-7)
    assert unlabelled.cost.disk == 208 * (cells * 512 + 8)  # 1,000 of 8,762, and as many of 1,820
    bank = round(8_762 * 2.47 * 128) * 517 + 8 * 8_763
    assert features.cost.disk == bank + 1_000 * (cells * 512 + 8)  # features.train_maps
    assert generator.cost.seconds == pytest.approx(3 * 100_000 * 1e-3)  # and two draws


def test_bytes_and_seconds_of_what_methods_keep_of_validation_images(voc12: Params) -> None:
    train, unlabelled = ("--train-maps", "m.h5"), ("--proposals", "unlabelled.h5")
    rows = ("--row", "plain", "zs3net", "a", "--row", "fused", "zs3net+eig", "a")
    folder = "artifacts/voc12/u4"
    eigenvectors, without, regions, others, spnet, sazs, evaluation = costs(
        [
            stage_of("eigenvectors", f"{folder}/e.h5", *train),
            stage_of("eigenvectors", f"{folder}/e.h5"),
            stage_of("regions", f"{folder}/r.h5"),
            stage_of("regions", f"{folder}/r.h5", *unlabelled),
            stage_of("spnet_maps", f"{folder}/m.h5"),
            stage_of("sazs_maps", f"{folder}/m.h5"),
            stage_of("evaluate", "evaluations/voc12/u4/zs3net", *rows),
        ],
        voc12,
    )
    image = 23 * 31 * 4 * 2 + 72  # sazs §4.1: patches of 16 pixels, 5 vectors
    assert without.cost.disk == 1_449 * image + 8
    assert eigenvectors.cost.disk == (1_449 + 500) * image + 8  # features.tuning_images
    assert regions.cost.disk == 1_449 * 100 * (2 * 512 + 1)  # simbaseline §2.1
    assert regions.cost.seconds == pytest.approx(1_449 * 100 * 224**2 * 8e-7)  # simbaseline §3
    assert others.cost.disk == 1_820 * 100 * (2 * 512 + 1)
    scales = 1 + 0.25 + 0.5625  # spnet §2
    assert spnet.cost.disk == 1_449 * (78 * 104 * 21 * 2 + 8)
    assert spnet.cost.seconds == pytest.approx(1_449 * 312 * 416 * scales * 1e-7)
    assert sazs.cost.disk == 1_449 * (64 * 64 * 21 * 2 + 8)  # sazs §1.4, §2.2
    assert sazs.cost.seconds == pytest.approx(1_449 * 512**2 * 2e-7)
    photographs = [(500, 375)] * 1_449
    assert evaluation.cost.disk == 2 * sizes.evaluation(photographs, 21)
    labelled = 2 * 1_449 * (1 + 1_820 / 10_582) + 500  # zs3net §1.5; features.tuning_images
    assert evaluation.cost.seconds == pytest.approx(labelled * 500 * 375 * 5e-8)


def test_seconds_of_what_learns_end_to_end(voc12: Params) -> None:
    names = ("zs5net", "joem", "spnet_end_to_end", "cagnet_end_to_end", "zs3net_official")
    stages = [stage_of(name, f"artifacts/voc12/u4/{name}") for name in names]
    found = [f.cost.seconds for f in costs(stages, voc12)]
    scales = 1 + 0.25 + 0.5625  # spnet §2, cagnet §2
    assert found == pytest.approx(
        [
            200 * 8_752 * 312**2 * 1e-6,  # zs3net §2
            2 * 50 * 8_762 * 312**2 * 1e-6,  # joem §3.4; twice, to choose sigma
            2 * 20_000 * 10 * 321**2 * scales * 1e-6,  # spnet §5; twice, to choose gamma
            40_000 * 8 * 369**2 * scales * 1e-6,  # cagnet §5
            30 * 10_582 * 312**2 * 1e-7,  # zs3net §4.6: the backbone looks, and does not learn
        ]
    )


def test_what_sazs_takes(voc12: Params) -> None:
    """An epoch is 1.47 pairs per image, or as many draws as images; twice, to choose gamma."""
    stage = stage_of("sazs", "artifacts/voc12/u4/sazs/trained")
    training = voc12.sazs.training.model_copy(update={"draw": "classes"})
    drawn = voc12.sazs.model_copy(update={"training": training})
    for params, pairs in ((voc12, 1.47), (voc12.model_copy(update={"sazs": drawn}), 1)):
        (found,) = costs([stage], params)
        items = 20 * 8_762 * pairs  # sazs §5
        assert found.cost.seconds == pytest.approx(2 * items * 512**2 * 2e-6)
    assert found.cost.memory == 6 * GIB
    assert found.cost.disk == 4 * MIB + 500 * (64 * 64 * 21 * 2 + 8)  # features.tuning_images


def test_what_simbaseline_takes(voc12: Params) -> None:
    folder = "artifacts/voc12/u4/simbaseline"
    network, proposals, second = costs(
        [
            stage_of("simbaseline_network", f"{folder}/network.safetensors"),
            stage_of("simbaseline_proposals", f"{folder}/val.h5"),
            stage_of("simbaseline_self_train", f"{folder}/st"),
        ],
        voc12,
    )
    once = 20_000 * 16 * 512**2 * 3e-6  # simbaseline §2.3
    assert network.cost.seconds == pytest.approx(once)
    assert (network.cost.memory, network.cost.disk) == (7 * GIB, 5 * MIB)
    looked = 1_449 * 512 * 704 * 3e-7  # views of 512x683, padded
    assert proposals.cost.seconds == pytest.approx(looked)
    labelled = 1_820 * 512 * 683 * 7e-8
    assert second.cost.seconds == pytest.approx(once + labelled + looked)
    labels = sizes.pseudo_labels([(500, 375)] * 1_820)
    assert second.cost.disk == 5 * MIB + proposals.cost.disk + labels


def test_what_the_per_pixel_variants_take(voc12: Params) -> None:
    rows = [f"--row {by} simbaseline-fcn clean" for by in ("pixels", "windows", "both")]
    folder = "artifacts/voc12/u4/simbaseline"
    stages = [
        stage_of("simbaseline_fcn", f"{folder}/fcn.safetensors"),
        *(stage_of("simbaseline_fcn_evaluate", "evaluations/voc12/u4/fcn", row) for row in rows),
        stage_of("simbaseline_fcn_evaluate", "evaluations/voc12/u4/fcn", *rows),
    ]
    network, pixels, windows, both, all_three = costs(stages, voc12)
    assert network.cost.seconds == pytest.approx(20_000 * 16 * 512**2 * 4e-6)  # simbaseline §6
    assert network.cost.memory == 8 * GIB + 2 * 16 * 512**2 * 17 * 4  # seen classes of u4
    assert network.cost.disk == 6 * MIB
    looked = 1_449 * 512 * 704 * 4e-7  # views of 512x683, padded
    assert pixels.cost.seconds == pytest.approx(looked)
    through = 1_449 * 5 * 8 * 224**2 * 8e-7  # every 75 pixels
    assert windows.cost.seconds == pytest.approx(through)
    assert both.cost.seconds == pytest.approx(looked + through)
    assert all_three.cost.seconds == pytest.approx(2 * (looked + through))
    assert all_three.cost.disk == 3 * sizes.evaluation([(500, 375)] * 1_449, 21)
    scales = [WindowScale(short_side=256, tile=128), WindowScale(short_side=256, tile=512)]
    small = WindowParams(scales=scales, batch_size=1)
    (_, _, scaled, *_) = costs(stages, per_pixel(voc12, windows=small))
    # 256x341: starts 0 43 86 128 by 0 43 ... 213; and one window that is larger than the image
    through = 1_449 * (4 * 6 * 128**2 + 512**2) * 8e-7
    assert scaled.cost.seconds == pytest.approx(through)


def test_what_cagnet_takes_on_cached_features(voc12: Params) -> None:
    folder, recipe = "artifacts/voc12/u4/cagnet", ("--recipe", "cagnet")
    joint, mixed, *official = costs(
        [
            stage_of("cagnet_step1", f"{folder}/step1.safetensors", *recipe),
            stage_of("cagnet_step2", f"{folder}/clean", *recipe),
            stage_of("cagnet_step1", f"{folder}/official/step1", "--recipe cagnet.official"),
            stage_of("cagnet_step2", f"{folder}/official/clean", "--recipe cagnet.official"),
        ],
        voc12,
    )
    assert joint.cost.seconds == pytest.approx(40_000 * 8 * 2e-2)  # cagnet §5
    steps = 2 * (40_000 + 5 * 6_000) + 6_000  # two draws, five boosts
    assert mixed.cost.seconds == pytest.approx(steps * 2_048 * 4e-5)
    assert [f.cost.seconds for f in official] == [None, None]  # runs of labels decide


def test_what_names_and_prompts_take(voc12: Params) -> None:
    row = ("--row", "both", "simbaseline", "clean")
    stages = [
        stage_of("prompts", "artifacts/voc12/u4/simbaseline/prompts"),
        stage_of("simbaseline_evaluate", "evaluations/voc12/u4/simbaseline", *row, *row),
        stage_of("competitors", "artifacts/voc12/u4/spnet/competitors.h5"),
        stage_of("vision_language", "artifacts/voc12/clip/model"),
    ]
    learned, named, competitors, clip = costs(stages, voc12)
    step = 32 * 224**2 * 8e-7 + 17 * 9e-3  # 17 seen classes
    assert learned.cost.seconds == pytest.approx(voc12.vision_language.prompts.steps * step)
    passes = 2 * (1 + 1_820 / 10_582)  # zs3net §1.5
    assert named.cost.seconds == pytest.approx(1_449 * passes * 512 * 683 * 7e-8)
    assert competitors.cost.seconds == pytest.approx(1_449 * 500 * 375 * 6e-8)
    assert clip.cost.disk == 149_620_737 * 4  # parameters of CLIP ViT-B/16


def test_images_are_labelled_twice_where_all_may_show_unseen_classes(voc12: Params) -> None:
    stays = voc12.benchmark.model_copy(update={"unseen_images": "ignore"})
    across = voc12.benchmark.model_copy(update={"trained_on": "another"})
    survey = Survey.of(voc12, Path("nowhere"))
    for benchmark, split, passes in ((stays, "u4", 2), (across, "u4", 1), (stays, "all", 1)):
        facts = Facts(voc12.model_copy(update={"benchmark": benchmark}), survey, PACE)
        assert facts.passes(split) == passes


def test_graphs_have_as_many_segments_as_those_that_were_counted(voc12: Params) -> None:
    stages = [stage_of("zs3net_graphs", "artifacts/voc12/u4/zs3net-gc/graphs.h5")]
    survey = replace(Survey.of(voc12, Path("nowhere")), segments=(8.5, 12.0))
    (found,) = forecast(stages, voc12, survey, PACE, Path("none"))
    assert found.cost.disk == sizes.graphs(8_500, 12_000, 1_000, 256)  # features.train_maps
    (unknown,) = costs(stages, voc12)
    assert unknown.cost.disk is None


LISTS_AND_TABLES = {
    *("index", "world", "report", "source", "sweep", "sazs_episodes", "vectors", "embeddings"),
    *("code", "text_vectors", "text_table", "learned_text", "prompts"),
}
SMALL_NETWORKS = {
    *("zs3net_generator", "zs3net_classifier", "zs3net_graph_generator"),
    *("zs3net_graph_classifier", "spnet", "joem_frozen", "cagnet_step1", "cagnet_step2"),
}


def test_every_stage_that_fills_a_disk_has_a_rule_for_it(voc12: Params) -> None:
    """Of any benchmark: all of them run what these files list."""
    files = [PROJECT / "dvc.yaml", *PROJECT.glob("pipelines/*/dvc.yaml")]
    modules = {m for file in files for m in re.findall(r"-m stages\.(\w+)", file.read_text())}
    survey = replace(Survey.of(voc12, Path("nowhere")), segments=(8.5, 12.0))
    stages = [stage_of(m, f"artifacts/voc12/u4/{m}", "--row plain a b") for m in sorted(modules)]
    found = forecast(stages, voc12, survey, PACE, Path("none"))
    little = LISTS_AND_TABLES | SMALL_NETWORKS
    assert {f.stage.module for f in found if not f.cost.disk} == little


@pytest.mark.parametrize("module", RULES)
def test_every_rule_is_of_a_stage_and_tells_something(module: str, voc12: Params) -> None:
    assert (PROJECT / "stages" / f"{module}.py").exists()
    row = "--row plain name file"
    survey = replace(Survey.of(voc12, Path("nowhere")), segments=(8.5, 12.0))
    stages = [stage_of(module, f"artifacts/voc12/u4/{module}", row)]
    (found,) = forecast(stages, voc12, survey, PACE, Path("none"))
    assert (found.cost.disk or 0) + (found.cost.seconds or 0) > 0


def test_what_no_rule_tells_took_as_long_as_last_time(tmp_path: Path, voc12: Params) -> None:
    timings = tmp_path / "timings.jsonl"
    timings.write_text('{"out": "artifacts/voc12/u4/spnet", "seconds": 12.5}\n')
    stages = [stage_of(m, f"artifacts/voc12/u4/{m}") for m in ("spnet", "joem_frozen")]
    known, unknown = costs(stages, voc12, timings)
    assert (known.cost.seconds, unknown.cost.seconds) == (12.5, None)
    assert "1 that nobody can tell" in list(table([known, unknown]))[-1]


def test_only_what_runs_counts_and_what_does_not_fit_is_refused_with_the_numbers(
    voc12: Params,
) -> None:
    out = "artifacts/voc12/u4/features/val_maps.h5"
    runs, done = costs([stage_of("maps", out), stage_of("maps", out, state="cached")], voc12)
    need = runs.cost.disk
    assert need is not None
    refuse_what_does_not_fit([runs, done], need)
    with pytest.raises(
        InputError, match=r"need 5\.6 GiB of disk, 1\.0 GiB are free \(most: maps 5\.6"
    ):
        refuse_what_does_not_fit([runs, done], GIB)
    last = list(table([runs, done]))[-1]
    assert last.startswith("to run: 1 of 2 stages")
    assert last.endswith("5.6 GiB of disk")


@pytest.mark.parametrize(("free", "code"), [(10 * GIB, 0), (1, 2)])
def test_the_command_ends_with_2_where_the_disk_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["backbone"]["model"] = tiny.deeplab().model_dump(mode="json")
    simbaseline = params["simbaseline"]
    simbaseline["self_training"]["splits"] = simbaseline["proposal_splits"] = []
    params["sazs"]["splits"] = simbaseline["splits"] = []
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_index(tmp_path / "artifacts" / "world")
    stages = [stage_of("backbone", "artifacts/world/u4/backbone")]
    monkeypatch.setattr(zslib.plan, "read_stages", lambda project: stages)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    result = CliRunner().invoke(main, ["plan"])
    assert result.exit_code == code, result.output
    assert "world: 3 training and 1 validation images (the dataset)" in result.stdout
    assert "to run: 1 of 1 stages" in result.stdout
    assert ("error: artifacts: the stages to run need" in result.stderr) == bool(code)
