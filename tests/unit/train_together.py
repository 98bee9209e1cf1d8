"""Trains a network and extracts features with it, in one process or in several.

Not a test itself: `test_training.py` compares what several processes and one process write. Run as a
script, it imports everything once and then forks processes with torchrun's environment.
"""

import os
import socket
import sys
from pathlib import Path

import numpy as np

from tests import tiny
from zslib.artifacts.weights import save_tensors
from zslib.backbones.trained import Backbone
from zslib.features import Photographs, extract, plan_dense
from zslib.methods import supervised
from zslib.params.training import ComputeParams
from zslib.training import Checkpoint, Runtime, start_runtime

CLASSES = [0, 1, 2, 3]


def work(folder: Path, compute: ComputeParams) -> None:
    """Write weights.safetensors and dense.h5 in `folder`, the same with any number of processes."""
    runtime = start_runtime(compute)
    backbone = fit(folder, compute, runtime)
    if runtime.rank == 0:
        save(folder / "weights.safetensors", backbone)
    images = sorted((folder.parent / "images").iterdir())
    photographs = Photographs.of(images, [(32, 32)] * 8, short_side=32, stride=4)
    extract(
        lambda batch: batch[:, :, ::4, ::4].float(),
        photographs,
        {folder / "dense.h5": plan_dense(photographs, [path.stem for path in images])},
        dimension=3,
        batch_size=3,
        runtime=runtime,
        scratch=folder / "scratch",
    )


def fit(folder: Path, compute: ComputeParams, runtime: Runtime) -> Backbone:
    """Train for four steps on images with different numbers of void pixels."""
    # One process saves at every step, the others never: real clocks disagree as well.
    checkpoint = Checkpoint(folder / "checkpoint", 0 if runtime.rank == 0 else 1e9)
    return supervised.fit(
        sorted((folder.parent / "images").iterdir()),
        tiny.block_maps(8, CLASSES),
        tiny.SPLIT,
        tiny.backbone(epochs=2, frozen_batch_norm=True),
        seed=0,
        compute=compute,
        runtime=runtime,
        checkpoint=checkpoint,
    )


def save(path: Path, backbone: Backbone) -> None:
    state = backbone.network.state_dict()
    tensors = {n: t.detach().cpu().numpy() for n, t in state.items()}
    save_tensors(path, tensors, schema=tiny.SCHEMA, meta={})


def labelled_pixels_per_process(world_size: int) -> list[list[int]]:
    """How many labelled pixels each process has in each step, without augmentation."""
    from zslib.datasets.views import BatchOrder

    counts = [int((m != 255).sum()) for m in tiny.block_maps(8, CLASSES)]
    shares = []
    for rank in range(world_size):
        order = BatchOrder(8, 4, section="backbone", seed=0, rank=rank, world_size=world_size)
        shares.append([sum(counts[p] for _, p in batch) for batch in order.batches(0, 4)])
    return np.array(shares).T.tolist()


def train_in_half_precision(folder: Path) -> None:
    """Write the weights of a short run in mixed fp16, as on a GPU that lacks bf16."""
    from zslib.training import FabricRuntime

    compute = ComputeParams(device="cpu", precision="fp16")
    runtime = FabricRuntime(compute, accelerator="cpu", processes=1)
    save(folder / "weights.safetensors", fit(folder, compute, runtime))


def launch(processes: int, folder: Path) -> list[int]:
    """Start processes as torchrun does; return their ids."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "test",
            }
            work(folder, ComputeParams(device="cpu", devices=processes))
            sys.exit(0)
        children.append(child)
    return children


def main(folder: Path) -> None:
    import lightning_fabric  # noqa: F401 (once, for all processes)

    children = launch(2, folder / "two")
    if (half := os.fork()) == 0:
        train_in_half_precision(folder / "half")
        sys.exit(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in [*children, half]]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
