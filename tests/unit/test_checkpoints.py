"""Released files become artifacts: names, shapes, colours; what does not fit is refused with a list.

The files are synthetic. Tensors of full size share one number for storage, and weigh nothing.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor, nn

from tests import tiny
from zslib.backbones.deeplab import DeepLabV3Plus
from zslib.backbones.deeplab_v2 import DeepLabV2
from zslib.backbones.encoder import build_encoder
from zslib.backbones.trained import Backbone, build_network
from zslib.checkpoints import IMPORTS, Request
from zslib.checkpoints.files import ReleasedFile, read_checkpoint, read_table
from zslib.checkpoints.mapping import by_name, in_order
from zslib.checkpoints.official import CAFFE_MEAN, _deeplab
from zslib.classifier import PixelClassifier
from zslib.cli import main
from zslib.embeddings.table import ClassVectors, load_class_vectors, save_class_vectors
from zslib.errors import InputError
from zslib.methods.zs3net.generator import Generator, load_generators
from zslib.params import Params, load_params
from zslib.params.backbone import DeepLabParams, EncoderParams, ModelParams
from zslib.params.zs3net import GeneratorParams, GmmnParams
from zslib.prototypes import PrototypeClassifier
from zslib.training import SingleProcess

PROJECT = Path(__file__).resolve().parents[2]
DIMENSION = 8


def params_with(model: ModelParams) -> Params:
    """The parameters in force, but with a tiny network for nine classes, of which two are unseen."""
    known = load_params(PROJECT / "params.yaml")
    unseen = [tiny.CLASSES[c] for c in tiny.UNSEEN]
    benchmark = known.benchmark.model_copy(
        update={"name": "tiny", "classes": list(tiny.CLASSES), "void": [], "unseen": {"u2": unseen}}
    )
    backbone = known.backbone.model_copy(update={"model": model})
    return known.model_copy(update={"benchmark": benchmark, "backbone": backbone})


V3, V2 = params_with(tiny.deeplab()), params_with(tiny.deeplab_v2())


def network_of(params: Params, seed: int = 0) -> Any:
    """A network whose batch norms have seen something."""
    torch.manual_seed(seed)
    network = build_network(params.backbone.model, len(tiny.CLASSES), pretrained=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def as_released(network: nn.Module, prefix: str = "module.") -> dict[str, Tensor]:
    """The network's tensors as a DeepLabV3+ of another hand: encoder by name, the rest renamed."""
    state = network.state_dict()
    inside = {n: t for n, t in state.items() if n.startswith("encoder.")}
    others = {n: t for n, t in state.items() if n not in inside}
    renamed = {f"{prefix}body.{n.removeprefix('encoder.')}": t for n, t in inside.items()}
    return renamed | numbered(others, f"{prefix}top.")


def numbered(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors under names that number the layers, as if they had been defined in a list."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    return {
        f"{prefix}{layers.index(layer)}.{kind}": tensor
        for (layer, _, kind), tensor in ((n.rpartition("."), t) for n, t in state.items())
    }


def request(file: Path, params: Params = V3, **options: Any) -> Request:
    return Request(file=file, out=file.parent / "artifact", params=params, split="u2", **options)


def saved(folder: Path, content: object, name: str = "official.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 48), generator=torch.Generator().manual_seed(0)).byte()


# --- DeepLabV3+ ----------------------------------------------------------------------------------


@pytest.mark.parametrize("counters", [True, False])
def test_a_deeplab_v3_plus_makes_the_same_features(tmp_path: Path, counters: bool) -> None:
    network = network_of(V3)
    state = as_released(network)
    if not counters:  # torch 0.4.0 had none
        state = {n: t for n, t in state.items() if "num_batches_tracked" not in n}
    content = {"epoch": 199, "state_dict": state, "optimizer": {"state": {0: torch.ones(2)}}}
    asked = request(saved(tmp_path, content))
    assert list(IMPORTS["zs3net-backbone"](asked)) == []

    backbone = Backbone.load(asked.out / "network.safetensors")
    pixels = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(backbone.network.eval()(pixels), network(pixels))
    assert backbone.split.unseen == tiny.UNSEEN
    classifier = PixelClassifier.load(asked.out / "classifier.safetensors")
    assert torch.equal(classifier.bias, network.classifier.bias)


def published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in tensors.items()}


def test_zs3net_oracle_10_every_tensor_of_the_full_network_finds_its_place() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus(DeepLabParams(encoder=EncoderParams(name="resnet101")), 21)
    state = as_released(network, prefix="")
    tensors = _deeplab(ReleasedFile(Path("full.pth"), published_names(state)), network)
    learned = {name for name, _ in network.named_parameters()}
    assert sum(t.numel() for n, t in tensors.items() if n in learned) == 59_344_309


def test_joem_o19_the_encoder_has_624_of_torchvision_s_626_names(tmp_path: Path) -> None:
    from torchvision.models import resnet101

    with torch.device("meta"):
        official = resnet101().state_dict()
        encoder = build_encoder(EncoderParams(name="resnet101"), output_stride=32, pretrained=False)
    assert len(official) == 626
    assert len(official.keys() & encoder.state_dict().keys()) == 624
    state = {f"module.{name}": tensor for name, tensor in published_names(official).items()}
    found = read_checkpoint(saved(tmp_path, state))
    tensors = by_name(found, encoder.state_dict(), left_out=("fc.weight", "fc.bias"))
    assert len(tensors) == 624 - sum("num_batches_tracked" in n for n in official)
    with pytest.raises(
        InputError, match=r"2 tensor\(s\) unaccounted for: 'fc.weight' is not known"
    ):
        by_name(found, encoder.state_dict())


def test_an_imported_encoder_is_what_a_backbone_can_start_from(tmp_path: Path) -> None:
    network = network_of(V3)
    state = {f"module.{name}": t for name, t in network.encoder.state_dict().items()}
    state |= {"module.fc.weight": torch.ones(5, 3), "module.fc.bias": torch.ones(5)}
    asked = request(saved(tmp_path, {"state_dict": state}))
    IMPORTS["imagenet-encoder"](asked)
    start = EncoderParams(name="test_resnet", weights=[str(asked.out)])
    encoder = build_encoder(start, output_stride=16, pretrained=True)
    assert all(
        torch.equal(tensor, encoder.state_dict()[name])
        for name, tensor in network.encoder.state_dict().items()
        if "num_batches_tracked" not in name
    )


FIRST = "module.body.conv1.0.weight"


def without_last(state: dict[str, Tensor]) -> None:
    state.popitem()


def with_another(state: dict[str, Tensor]) -> None:
    state["module.top.999"] = torch.ones(3)


def reshaped(state: dict[str, Tensor]) -> None:
    state["module.top.0.weight"] = torch.ones(4, 4)


def without_a_name(state: dict[str, Tensor]) -> None:
    del state[FIRST]


def diverged(state: dict[str, Tensor]) -> None:
    state[FIRST] = torch.full_like(state[FIRST], torch.nan)


def two_layers_exchanged(state: dict[str, Tensor]) -> None:
    names = list(state)
    first = names.index("module.top.0.weight")
    last = len(names) - 1
    state[names[first]], state[names[last]] = state[names[last]], state[names[first]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_last, "nothing is left for classifier.bias"),
        (with_another, "'top.999' 3 is left over"),
        (reshaped, "'top.0.weight' is 4x4 where aspp.branches.0.0.weight wants 8x"),
        (without_a_name, f"'{FIRST.removeprefix('module.')}' is missing"),
        (diverged, "is not finite"),
        (two_layers_exchanged, r"2 tensor\(s\) unaccounted for"),
    ],
)
def test_a_file_with_a_tensor_unaccounted_for_is_refused(
    tmp_path: Path, change: Any, said: str
) -> None:
    state = as_released(network_of(V3))
    change(state)
    asked = request(saved(tmp_path, state))
    with pytest.raises(InputError, match=rf"official\.pth: .*{said}"):
        IMPORTS["zs3net-backbone"](asked)
    assert not asked.out.exists()


BRANCHES = ("aspp1", "aspp2", "aspp3", "aspp4")


def aspp(*order: str) -> dict[str, Tensor]:
    """Branches of an ASPP, a convolution and a batch norm each, under these names."""
    tensors: dict[str, Tensor] = {}
    for place, name in enumerate(order):
        size = 1 if place == 0 else 3
        tensors[f"{name}.atrous.weight"] = torch.full((2, 5, size, size), float(place))
        for kind in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.bn.{kind}"] = torch.full((2,), float(place))
    return tensors


OURS = {
    name.replace("atrous", "0").replace("bn", "1"): tensor
    for name, tensor in aspp(*(f"branches.{i}" for i in range(4))).items()
}


def in_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return in_order(ReleasedFile(Path("a.pth"), tensors), OURS)


@pytest.mark.parametrize("names", [BRANCHES, ("c0", "c1", "c2", "c3"), ("one", "r6", "r12", "r18")])
def test_numbers_in_names_confirm_the_order_of_branches_alike_in_shape(
    names: tuple[str, ...],
) -> None:
    found = in_file(aspp(*names))
    assert all(torch.equal(found[name], tensor) for name, tensor in OURS.items())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("aspp1", "aspp4", "aspp3", "aspp2"), "'aspp3.atrous.weight' comes after 'aspp4"),
        (("r1", "r12", "r18", "r6"), "'r6.bn.weight' comes after 'r18.bn.weight'"),
        (
            ("first", "left", "middle", "right"),
            "nothing tells whether 'left.atrous.weight' or 'middle.atrous.weight' is branches.2.0",
        ),
    ],
)
def test_branches_alike_in_shape_are_refused_where_names_do_not_tell_their_order(
    names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        in_file(aspp(*names))


def test_tensors_of_a_batch_norm_are_told_by_their_kind_and_layer() -> None:
    kinds = {"running_mean": "running_var", "running_var": "running_mean"}
    exchanged = {
        ".".join([*n.split(".")[:-1], kinds.get(n.split(".")[-1], n.split(".")[-1])]): t
        for n, t in aspp(*BRANCHES).items()
    }
    with pytest.raises(InputError, match=r"'aspp1.bn.running_var' is where branches.0.1.running_m"):
        in_file(exchanged)
    layers = {"aspp2.bn.bias": "aspp3.bn.bias", "aspp3.bn.bias": "aspp2.bn.bias"}
    mixed = {layers.get(name, name): tensor for name, tensor in aspp(*BRANCHES).items()}
    with pytest.raises(InputError, match=r"'aspp3.bn.bias' is of another layer than 'aspp2.bn'"):
        in_file(mixed)


def test_a_refusal_names_a_few_and_counts_the_rest() -> None:
    given = ReleasedFile(Path("a.pth"), {f"layer{i}": torch.ones(1) for i in range(40)})
    with pytest.raises(InputError, match=r"40 tensor\(s\).*'layer3' 1 is left over; and 36 more"):
        in_order(given, {})


def test_an_encoder_of_another_architecture_is_told_which_is_wanted(tmp_path: Path) -> None:
    other = build_encoder(EncoderParams(name="resnet18"), output_stride=32, pretrained=False)
    asked = request(saved(tmp_path, published_names(other.state_dict())))
    said = (
        r"^\S*official\.pth: is no test_resnet \(params\.yaml:backbone\.model\.encoder\.name\): "
        r"\d+ tensor\(s\) unaccounted for: ('[^']*' [^';]*; ){4}and \d+ more; "
    )
    with pytest.raises(InputError, match=said):
        IMPORTS["imagenet-encoder"](asked)
    assert not asked.out.exists()


@pytest.mark.parametrize(
    ("name", "said"), [("nope", "no such file"), (".", "Is a directory"), ("n" * 300, "File name")]
)
@pytest.mark.parametrize("kind", ["imagenet-encoder", "vectors"])
def test_a_file_that_is_not_there_is_named_as_such(
    tmp_path: Path, kind: str, name: str, said: str
) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: {said}.*; give the file that was"):
        IMPORTS[kind](request(tmp_path / name))


def test_the_wrong_architecture_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, as_released(network_of(V3)))
    with pytest.raises(
        InputError, match="architecture: is deeplab_v2, the file's network deeplab_v3"
    ):
        IMPORTS["zs3net-backbone"](request(file, V2))


# --- SPNet and CaGNet ----------------------------------------------------------------------------


def caffe(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The tensors of a DeepLabV2 that takes BGR, renamed; the classifier is of no file."""
    state = {n: t for n, t in network.state_dict().items() if not n.startswith("classifier.")}
    return numbered(state, f"{prefix}layer")


def caffe_features(network: DeepLabV2) -> Tensor:
    """What the released code computes: BGR, the mean taken out, nothing divided (spnet §5)."""
    mean = torch.tensor(CAFFE_MEAN[::-1]).view(3, 1, 1)
    with torch.inference_mode():
        return network.features(images().float().flip(1) - mean)


def embeddings(folder: Path, dimension: int) -> Path:
    rows = np.random.default_rng(0).normal(size=(9, dimension)).astype(np.float32)
    path = folder / "embeddings.safetensors"
    save_class_vectors(path, ClassVectors("words", tiny.CLASSES, rows, {}))
    return path


def test_spnet_section_5_takes_rgb_where_the_file_took_bgr_without_deviation(
    tmp_path: Path,
) -> None:
    network = network_of(V2)
    words = embeddings(tmp_path, DIMENSION)
    file = saved(tmp_path, caffe(network, "scale."))
    asked = request(file, V2, embeddings=words, calibration=0.6)
    assert "stride in the first 1x1" in " ".join(IMPORTS["spnet"](asked))
    backbone = Backbone.load(asked.out / "network.safetensors")
    found = backbone.features_of(SingleProcess())(images())
    torch.testing.assert_close(found, caffe_features(network), rtol=1e-3, atol=1e-2)
    classifier = PixelClassifier.load(asked.out / "classifier.safetensors")
    assert classifier.gamma == 0.6
    rows = torch.from_numpy(load_class_vectors(words).rows)
    assert torch.equal(classifier.weight, rows)  # spnet §2: logit_c = h . e_c
    assert not classifier.bias.any()


def test_spnet_section_6_embeddings_of_another_length_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, caffe(network_of(V2), "scale."))
    words = embeddings(tmp_path, DIMENSION + 1)
    with pytest.raises(InputError, match="9 numbers per class, the network 8"):
        IMPORTS["spnet"](request(file, V2, embeddings=words))
    with pytest.raises(InputError, match="--embeddings: missing"):
        IMPORTS["spnet"](request(file, V2))


def cagnet_file(network: nn.Module) -> dict[str, Tensor]:
    inside = caffe(network, "back.scale.")
    inside |= {f"back.scale.contextual{i}.weight": torch.ones(4, 8, 3, 3) for i in (1, 2, 3)}
    inside["back.scale.other.weight"] = torch.ones(3, 12, 3, 3)  # the selector: 3 gates
    return inside | {"dis.weight": torch.ones(4, 8), "gen.weight": torch.ones(8, 16)}


def test_cagnet_section_10_the_backbone_is_told_from_the_rest_of_the_file(tmp_path: Path) -> None:
    network = network_of(V2)
    asked = request(saved(tmp_path, cagnet_file(network)), V2)
    remarks = IMPORTS["cagnet-backbone"](asked)
    assert remarks[0].startswith("left out: 4 tensors of the contextual module, 2 of generator")
    found = Backbone.load(asked.out).features_of(SingleProcess())(images())
    torch.testing.assert_close(found, caffe_features(network), rtol=1e-3, atol=1e-2)


def test_cagnet_section_10_b6_a_file_of_spnet_loads_nothing_and_says_so(tmp_path: Path) -> None:
    file = saved(tmp_path, caffe(network_of(V2), "scale."))
    with pytest.raises(InputError, match=r"no tensor begins with 'back\.scale\.'"):
        IMPORTS["cagnet-backbone"](request(file, V2))


def test_a_stray_tensor_in_the_backbone_is_refused(tmp_path: Path) -> None:
    state = cagnet_file(network_of(V2)) | {"back.scale.stray": torch.ones(5)}
    with pytest.raises(InputError, match="'stray' 5 is left over"):
        IMPORTS["cagnet-backbone"](request(saved(tmp_path, state), V2))


# --- JoEm, generators ----------------------------------------------------------------------------


@pytest.mark.parametrize("has_classifier", [True, False])
def test_joem_section_2_prototypes_are_an_affine_map_of_the_words(
    tmp_path: Path, has_classifier: bool
) -> None:
    network, words = network_of(V3), embeddings(tmp_path, 6)
    state = as_released(network)
    if not has_classifier:  # the auxiliary one is thrown away at test (joem §3.1)
        state = dict(list(state.items())[:-2])
    weight, bias = torch.rand(DIMENSION, 6), torch.rand(DIMENSION)
    semantic = saved(tmp_path, {"a.weight": weight, "a.bias": bias}, "semantic.pth")
    file = saved(tmp_path, state)
    asked = request(file, semantic=semantic, embeddings=words, calibration=0.5)
    IMPORTS["joem"](asked)
    classifier = PrototypeClassifier.load(asked.out / "classifier.safetensors")
    expected = torch.from_numpy(load_class_vectors(words).rows) @ weight.T + bias
    torch.testing.assert_close(classifier.prototypes, expected)
    assert classifier.sigma == 0.5
    stored = Backbone.load(asked.out / "network.safetensors").network.classifier.weight
    assert torch.equal(stored, network.classifier.weight) == has_classifier


def test_zs3net_section_4_a_generator_generates_the_same(tmp_path: Path) -> None:
    released = Generator(300, 256, GmmnParams())
    names = ["a.0.weight", "a.0.bias", "a.3.weight", "a.3.bias"]
    state = dict(zip(names, released.state_dict().values(), strict=True))
    params = V3.zs3net.model_copy(update={"generator": GeneratorParams(rows=4, lr=0.1, steps=1)})
    asked = request(
        saved(tmp_path, {"model": state, "epoch": 3}), V3.model_copy(update={"zs3net": params})
    )
    (told,) = IMPORTS["zs3net-generator"](asked)
    assert told.startswith("comes without held-out draws")
    found = load_generators(asked.out, Generator).final.eval()
    words, noise = torch.rand(3, 300), torch.rand(3, 300)
    assert torch.equal(found(words, noise), released.eval()(words, noise))
    assert sum(p.numel() for p in found.parameters()) == 219_648


# --- class vectors, and what is in a file --------------------------------------------------------


class Trap:
    """Would make a file if it were unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", ["npy", "pkl"])
def test_class_vectors_are_read_from_arrays_and_pickles_of_one(tmp_path: Path, suffix: str) -> None:
    rows = np.random.default_rng(0).normal(size=(9, 300))
    path = tmp_path / f"word2vec.{suffix}"
    if suffix == "npy":
        np.save(path, rows)
    else:
        path.write_bytes(pickle.dumps(rows))
    asked = request(path, source="word2vec")
    IMPORTS["vectors"](asked)
    vectors = load_class_vectors(asked.out)
    assert (vectors.source, vectors.classes) == ("word2vec", tiny.CLASSES)
    assert np.array_equal(vectors.rows, rows.astype(np.float32))
    assert vectors.made_from["imported_from"] == path.name


def test_pickles_of_old_numpy_are_read(tmp_path: Path) -> None:
    rows = np.ones((2, 3), np.float32)
    data = pickle.dumps(rows, protocol=3)  # protocol 3 spells modules out
    path = tmp_path / "old.pkl"
    path.write_bytes(data.replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core" in path.read_bytes()
    assert np.array_equal(read_table(path), rows)


def test_a_pickle_that_would_run_code_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(pickle.dumps(Trap()))
    np.save("a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    torch.save({"state_dict": Trap()}, "a.pth")
    with pytest.raises(InputError, match=r"a\.pkl: it holds pathlib"):
        read_table(Path("a.pkl"))
    with pytest.raises(InputError, match=r"a\.npy: .*allow_pickle"):
        read_table(Path("a.npy"))
    with pytest.raises(InputError, match=r"a\.pth: cannot be read as tensors alone"):
        read_checkpoint(Path("a.pth"))
    assert not Path("sprung").exists()


@pytest.mark.parametrize("table", [np.ones(3), np.ones((2, 2), int), {"cat": [1.0]}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, table: object) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(table))
    with pytest.raises(InputError, match="holds no table of numbers"):
        read_table(path)


def test_a_table_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "coco.npy"
    np.save(path, np.ones((182, 300)))
    with pytest.raises(InputError, match="has 182 rows, the benchmark 'tiny' 9 classes"):
        IMPORTS["vectors"](request(path))


def test_where_several_entries_hold_tensors_one_has_to_be_chosen(tmp_path: Path) -> None:
    tables = {"student": {"x.a": torch.zeros(1)}, "teacher": {"x.a": torch.ones(1)}}
    path = saved(tmp_path, tables | {"epoch": 3})
    with pytest.raises(InputError, match=r"'student', 'teacher'.*--entry"):
        read_checkpoint(path)
    assert read_checkpoint(path, entry="teacher").tensors == {"a": torch.ones(1)}


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["module.a.b", "module.c"], ["a.b", "c"]),
        (["scale.layer1.w", "scale.layer1.b"], ["w", "b"]),
        (["back.scale.w", "dis.w"], ["back.scale.w", "dis.w"]),
        (["weight", "bias"], ["weight", "bias"]),
    ],
)
def test_a_prefix_that_all_names_share_goes(
    tmp_path: Path, names: list[str], left: list[str]
) -> None:
    path = saved(tmp_path, {name: torch.ones(1) for name in names})
    assert list(read_checkpoint(path).tensors) == left


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["backbone"]["model"] = tiny.deeplab().model_dump(mode="json")
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def command(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["import-checkpoint", *map(str, arguments)])


def test_the_command_publishes_a_backbone(tmp_path: Path, params_file: Path) -> None:
    known = load_params(params_file)
    torch.manual_seed(0)
    network = build_network(
        known.backbone.model, len(known.benchmark.classes), pretrained=False
    ).eval()
    file, out = saved(tmp_path, as_released(network)), tmp_path / "u4" / "backbone"
    result = command(file, "--as", "zs3net-backbone", "--out", out, "--params", params_file)
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"{out}: written\n")
    assert Backbone.load(out / "network.safetensors").split.name == known.splits[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--as", "resnet"], "--as: 'resnet' is not one of imagenet-encoder"),
        (["--as", "zs3net-backbone", "--split", "u99"], "--split: 'u99' is not one of"),
        (["--as", "zs3net-backbone"], "tensor(s) unaccounted for"),
        (["--as", "joem"], "--semantic: missing"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path, params_file: Path, options: list[str], said: str
) -> None:
    file = saved(tmp_path, {"a.weight": torch.ones(2), "b.weight": torch.ones(2)})
    result = command(file, *options, "--out", tmp_path / "out", "--params", params_file)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "place", "said"),
    [
        ("joem", "photographs", "is not a folder of network.safetensors, classifier.safetensors"),
        ("joem", "params.yaml", "is not a folder of network.safetensors, classifier.safetensors"),
        ("vectors", "photographs", "exists, and is not a file; name the file to be written"),
        ("vectors", "official.pth", "is the file to be imported; choose another place"),
        ("imagenet-encoder", "params.yaml", "would pass for up to date; choose another name"),
        ("vectors", "params.yaml/out", "cannot be written (File exists); choose another place"),
    ],
)
def test_the_command_replaces_nothing_but_an_earlier_artifact(
    tmp_path: Path,
    params_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    place: str,
    said: str,
) -> None:
    def imports(_: Request) -> list[str]:
        raise AssertionError("the place should have been refused by now")

    monkeypatch.setitem(IMPORTS, kind, imports)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "mine.jpg").write_text("mine")
    file = saved(tmp_path, {"a": torch.ones(2)})
    before = sorted(tmp_path.rglob("*"))
    result = command(file, "--as", kind, "--out", tmp_path / place, "--params", params_file)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_s_help_names_every_kind() -> None:
    text = " ".join(command("--help").output.split())
    assert all(kind in text for kind in IMPORTS)
