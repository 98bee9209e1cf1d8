"""Faults 4, 5, 6: altered, truncated, unfinished, of another version: refused, with the stage to rerun."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from zslib.artifacts.features import BANK
from zslib.artifacts.schemas import Schema
from zslib.artifacts.store import allocate, open_arrays, write_arrays
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.errors import ArtifactError

CONTENT = {
    "features": np.arange(96, dtype=np.float32).reshape(24, 4),
    "labels": np.arange(24, dtype=np.uint8),
}
META = {"classes": ["horse", "zebra"], "unseen": [1]}

Read = Callable[..., tuple[dict[str, np.ndarray], dict]]
FORMATS = pytest.mark.parametrize(
    ("write", "read"),
    [(write_arrays, open_arrays), (save_tensors, load_tensors)],
    ids=["hdf5", "safetensors"],
)


def is_intact(arrays: dict[str, np.ndarray], meta: dict) -> bool:
    return (
        meta == META
        and sorted(arrays) == sorted(CONTENT)
        and all(np.array_equal(arrays[n], CONTENT[n]) for n in CONTENT)
        and all(arrays[n].dtype == CONTENT[n].dtype for n in CONTENT)
    )


def refused_or_intact(read: Read, path: Path) -> bool:
    """Read a damaged file: return whether it was refused; raise what is neither."""
    try:
        found = read(path, schema=BANK)
    except ArtifactError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert str(path) in message
        assert "train_features" in message.removeprefix(str(path))
        return True
    assert is_intact(*found), "damage went unnoticed"
    return False


def flip_bits(write: Callable[..., None], read: Read, folder: Path) -> None:
    """Flip a bit of every seventh byte in turn; write down what went unnoticed."""
    path, unnoticed = folder / "artifact", []
    write(path, CONTENT, schema=BANK, meta=META)
    assert is_intact(*read(path, schema=BANK))
    sound = path.read_bytes()
    for position in range(0, len(sound), 7):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        (folder / "at").write_text(f"byte {position} of {len(sound)}")
        try:
            refused_or_intact(read, path)
        except Exception as error:
            around = sound[max(position - 20, 0) : position + 20]
            unnoticed.append(f"byte {position}: {error!r:.100} near {around!r}")
    (folder / "unnoticed").write_text("\n".join(unnoticed))


@FORMATS
def test_fault_4_a_flipped_bit_anywhere_is_noticed_or_harmless(
    tmp_path: Path, write: Callable[..., None], read: Read
) -> None:
    """In a process of its own: libraries have been seen to read for ever in what a bit made."""
    arguments = (write, read, tmp_path)
    process = multiprocessing.get_context("fork").Process(target=flip_bits, args=arguments)
    process.start()
    process.join(30)
    process.kill()
    process.join()
    assert process.exitcode == 0, f"still reading at {(tmp_path / 'at').read_text()}"
    assert not (tmp_path / "unnoticed").read_text()


@FORMATS
@pytest.mark.parametrize("array", sorted(CONTENT))
def test_fault_4_a_flipped_byte_of_an_array_names_the_file(
    tmp_path: Path, write: Callable[..., None], read: Read, array: str
) -> None:
    path = tmp_path / "artifact"
    write(path, CONTENT, schema=BANK, meta=META)
    sound = path.read_bytes()
    start = sound.index(CONTENT[array].tobytes())
    path.write_bytes(sound[: start + 5] + bytes([sound[start + 5] ^ 1]) + sound[start + 6 :])
    name = rf"array '{array}'" if read is open_arrays else "content"
    with pytest.raises(
        ArtifactError, match=rf"artifact: {name} does not match its checksum.*train_features"
    ):
        read(path, schema=BANK)


@FORMATS
@pytest.mark.parametrize("word", [b"zebra", b"horse"])
def test_fault_4_an_altered_description_is_noticed(
    tmp_path: Path, write: Callable[..., None], read: Read, word: bytes
) -> None:
    path = tmp_path / "artifact"
    write(path, CONTENT, schema=BANK, meta=META)
    sound = path.read_bytes()
    assert word in sound
    path.write_bytes(sound.replace(word, word[::-1]))
    assert refused_or_intact(read, path)


@FORMATS
def test_fault_5_truncated_anywhere_is_refused(
    tmp_path: Path, write: Callable[..., None], read: Read
) -> None:
    path = tmp_path / "artifact"
    write(path, CONTENT, schema=BANK, meta=META)
    sound = path.read_bytes()
    for length in [0, 1, 7, 8, 100, len(sound) // 2, len(sound) - 1]:
        path.write_bytes(sound[:length])
        assert refused_or_intact(read, path), length


@FORMATS
def test_fault_5_a_missing_or_foreign_file_is_refused(
    tmp_path: Path, write: Callable[..., None], read: Read
) -> None:
    for name, content in {"text": b"not an artifact", "zeros": bytes(4096)}.items():
        (tmp_path / name).write_bytes(content)
        assert refused_or_intact(read, tmp_path / name)
    assert refused_or_intact(read, tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    assert refused_or_intact(read, tmp_path / "folder")


@FORMATS
@pytest.mark.parametrize("schema", ["bank/2", "dense/1"])
def test_fault_6_another_schema_names_both_and_the_stage(
    tmp_path: Path, write: Callable[..., None], read: Read, schema: str
) -> None:
    write(tmp_path / "artifact", CONTENT, schema=Schema(schema, "other"), meta=META)
    with pytest.raises(
        ArtifactError, match=rf"artifact: holds '{schema}', not 'bank/1'.*stage.*train_features"
    ):
        read(tmp_path / "artifact", schema=BANK)


def test_fault_6_an_unfinished_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.h5"
    allocate(path, {"x": ((3,), np.dtype(np.uint8))})
    assert refused_or_intact(open_arrays, path)
    write_arrays(path, CONTENT, schema=BANK, meta=META)
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]
    with pytest.raises(ArtifactError, match=r"bank\.h5: was never completed.*train_features"):
        open_arrays(path, schema=BANK)


@pytest.mark.parametrize(
    "header", [{}, {"schema": "bank/1"}, {"schema": "bank/1", "meta": {}}, [], None, 3]
)
def test_fault_6_a_safetensors_file_with_a_poor_header_is_refused(
    tmp_path: Path, header: object
) -> None:
    from safetensors.numpy import save

    path = tmp_path / "w.safetensors"
    path.write_bytes(save(dict(CONTENT), {"zslib": json.dumps(header)}))
    assert refused_or_intact(load_tensors, path)


def test_fault_6_a_safetensors_file_of_others_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(dict(CONTENT), tmp_path / "w.safetensors")
    assert refused_or_intact(load_tensors, tmp_path / "w.safetensors")
