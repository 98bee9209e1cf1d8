"""Eigenvectors of many images: their file, the stage's work, nodes from a ViT (sazs §4.1, §10)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from torch.nn import functional as F

from stages import eigenvectors as stage
from tests import tiny
from zslib.artifacts import resumable
from zslib.artifacts.eigenvectors import Eigenvectors, scaled_to_one
from zslib.artifacts.features import DenseMaps
from zslib.backbones.vit_keys import KeyExtractor
from zslib.errors import ArtifactError, ImageError, InputError
from zslib.params.backbone import EncoderParams
from zslib.params.eigenvectors import EigenvectorParams
from zslib.spectral.extraction import extract, solved_in_batches
from zslib.spectral.laplacian import image_spectrum
from zslib.spectral.nodes import KeyNodes, MapNodes, Nodes, choose_source, index_folder

CPU = torch.device("cpu")
PARAMS = EigenvectorParams(vectors=4)
VIT = EncoderParams(name="test_vit")


@pytest.fixture
def maps(tmp_path: Path) -> DenseMaps:
    """Feature maps of two sizes, large enough for Lanczos."""
    content = tiny.block_maps(4, tiny.SPLIT.seen, side=12)
    content += tiny.block_maps(2, tiny.SPLIT.seen, side=10)
    return DenseMaps.open(tiny.write_maps(tmp_path / "maps.h5", content))


def run(source: object, folder: Path, *, processes: int = 1) -> Path:
    out = folder / f"{processes}.h5"
    extract(source, PARAMS, out, processes=processes, device=CPU, scratch=folder / "scratch")
    return out


@dataclass
class Watched:
    """Nodes of dense maps; notes who is asked for, and dies after some images."""

    maps: DenseMaps
    dies_after: int = 10**9
    asked: list[int] = field(default_factory=list)
    aligned: str = "corners"

    def __post_init__(self) -> None:
        self._source = MapNodes([self.maps], None)
        self.ids, self.grids = self._source.ids, self._source.grids
        self.covered = self._source.covered

    def nodes(self, position: int) -> Nodes:
        if len(self.asked) == self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(position)
        return self._source.nodes(position)


# --- the file ------------------------------------------------------------------------------------


def test_the_file_holds_what_each_image_has_by_itself(maps: DenseMaps, tmp_path: Path) -> None:
    found = Eigenvectors.open(run(MapNodes([maps], None), tmp_path))
    assert found.ids == maps.ids
    assert "nobody" not in found
    for position, image_id in enumerate(maps.ids):
        features = maps[position].numpy()
        alone = image_spectrum(features, None, 4, 0.0)
        vectors = found.on_grid(image_id)
        assert vectors.shape == (3, *features.shape[:2])
        np.testing.assert_array_equal(found.eigenvalues_of(image_id), alone.eigenvalues)
        expected = alone.vectors[1:] / np.abs(alone.vectors[1:]).max(axis=1, keepdims=True)
        np.testing.assert_allclose(vectors.reshape(3, -1), expected, atol=5e-4)
        np.testing.assert_array_equal(vectors.reshape(3, -1) > 0, expected > 0)


def test_the_number_of_processes_does_not_change_a_byte(maps: DenseMaps, tmp_path: Path) -> None:
    one, two = (run(MapNodes([maps], None), tmp_path / f"{n}", processes=n) for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()


def test_a_killed_run_goes_on_where_it_stopped(
    maps: DenseMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SECONDS_BETWEEN_FLUSHES", -1.0)
    whole = run(MapNodes([maps], None), tmp_path / "whole").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(Watched(maps, dies_after=5), tmp_path)
    again = Watched(maps)
    assert run(again, tmp_path).read_bytes() == whole
    assert 0 < len(again.asked) < len(maps)


def test_damage_is_noticed(maps: DenseMaps, tmp_path: Path) -> None:
    path = run(MapNodes([maps], None), tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(Eigenvectors.open(path).vectors.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="array 'vectors' does not match its checksum"):
        Eigenvectors.open(path)


def test_a_zero_vector_stays_zero() -> None:
    scaled = scaled_to_one(np.array([[0.0, 0], [1e-9, -2e-9]]))
    assert scaled.tolist() == [[0, 0], [0.5, -1]]


def loaded(grid: np.ndarray, aligned: str, covered: tuple[float, float]) -> Eigenvectors:
    return Eigenvectors(
        grid.reshape(1, -1).T.astype(np.float16),
        np.zeros((1, 2)),
        np.array([0, grid.size]),
        np.array([grid.shape], np.int32),
        np.array([covered]),
        ("photo",),
        {"aligned": aligned},
    )


GRID = np.random.default_rng(0).integers(-8, 9, (3, 5)).astype(np.float32) / 8


def test_cells_of_maps_are_resized_with_corners_aligned() -> None:
    found = loaded(GRID, "corners", (1.0, 1.0)).at("photo", (13, 11))
    expected = F.interpolate(
        torch.from_numpy(GRID)[None, None], (13, 11), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(found, expected[0], atol=1e-6)


def test_patches_cover_their_part_and_the_rest_repeats_it() -> None:
    """A photograph of 55 x 83 has 3 x 5 patches of 16: 48 x 80 pixels (sazs §4.5)."""
    found = loaded(GRID, "cells", (48 / 55, 80 / 83)).at("photo", (55, 83))
    inner = F.interpolate(torch.from_numpy(GRID)[None, None], (48, 80), mode="bilinear")
    expected = F.pad(inner, (0, 3, 0, 7), mode="replicate")[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- a GPU's path, on a CPU ----------------------------------------------------------------------


def test_batches_of_one_grid_find_the_same_subspaces(maps: DenseMaps, tmp_path: Path) -> None:
    """Maps of 12x12 are solved together; those of 10x10 are too small and go one by one."""
    source = MapNodes([maps], None)
    solved = dict(solved_in_batches(source, range(len(maps)), PARAMS, CPU))
    assert sorted(solved) == list(range(len(maps)))
    for position, spectrum in solved.items():
        alone = image_spectrum(maps[position].numpy(), None, 4, 0.0)
        np.testing.assert_allclose(spectrum.eigenvalues, alone.eigenvalues, atol=1e-5)


# --- nodes ---------------------------------------------------------------------------------------


def photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_keys_are_those_of_the_last_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    extractor = KeyExtractor(VIT, CPU)
    image = index_folder(photographs(tmp_path / "photos", [(70, 37)])).image("0")
    keys = extractor(image)
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    pixels = torch.from_numpy(np.array(image)[:32, :64]).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (VIT.mean, VIT.std))
    seen = []
    network.blocks[-1].attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.forward_features((pixels - mean) / std)
        attention = network.blocks[-1].attn
        dimension = seen[0].shape[-1]
        weight, bias = (
            parameter[dimension : 2 * dimension]
            for parameter in (attention.qkv.weight, attention.qkv.bias)
        )
        expected = F.linear(seen[0][0, 1:], weight, bias)
    assert keys.shape == (2, 4, dimension)
    torch.testing.assert_close(keys.flatten(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_what_no_patch_covers_is_told(tmp_path: Path) -> None:
    index = index_folder(photographs(tmp_path / "photos", [(70, 37), (16, 16)]))
    source = KeyNodes(KeyExtractor(VIT, CPU), index, ["0", "1"])
    assert source.grids == [(2, 4), (1, 1)]
    assert source.covered == [(32 / 37, 64 / 70), (1, 1)]
    assert source.nodes(0).image.shape == (37, 70, 3)
    too_small = index_folder(photographs(tmp_path / "more", [(40, 15)]))
    with pytest.raises(InputError, match=r"0\.png: is smaller than one patch of 16 pixels"):
        KeyNodes(KeyExtractor(VIT, CPU), too_small, ["0"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("test_resnet", "for images of any size"), ("nothing", "timm cannot build 'nothing'")],
)
def test_an_encoder_without_keys_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KeyExtractor(EncoderParams(name=name), CPU)


def test_a_source_is_chosen_by_what_is_given(maps: DenseMaps, tmp_path: Path) -> None:
    index = index_folder(photographs(tmp_path / "photos", [(32, 32)] * 2))
    with_vit = PARAMS.model_copy(update={"encoder": VIT})
    assert list(choose_source(PARAMS, index, [maps], CPU).ids) == list(maps.ids)
    assert list(choose_source(with_vit, index, [], CPU).ids) == ["0", "1"]
    with pytest.raises(InputError, match=r"eigenvectors\.encoder: is null, and without --maps"):
        choose_source(PARAMS, index, [], CPU)


def test_a_folder_must_hold_sound_photographs(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", [(20, 20)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no JPEG or PNG file"):
        index_folder(tmp_path / "empty")
    Image.new("RGB", (20, 20)).save(folder / "0.jpg")
    with pytest.raises(InputError, match=r"0\.jpg and 0\.png have one id"):
        index_folder(folder)
    (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"0\.jpg"):
        index_folder(folder)


# --- the stage -----------------------------------------------------------------------------------


def test_the_stage_takes_any_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    vit = {"name": "test_vit", "weights": "none"}
    params["eigenvectors"] = {"encoder": vit, "colour_weight": 10.0, "vectors": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    photographs(tmp_path / "photos", [(96, 80), (64, 64)])
    monkeypatch.chdir(tmp_path)
    given = ["--images", "photos", "--out", "photos.h5", "--processes", "1"]
    done = CliRunner().invoke(stage.main, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = Eigenvectors.open(Path("photos.h5"))
    assert found.ids == ("0", "1")
    assert found.grids.tolist() == [[5, 6], [4, 4]]
    assert found.eigenvalues_of("0") == pytest.approx(sorted(found.eigenvalues_of("0")))
    assert found.at("0", (80, 96)).shape == (2, 80, 96)
