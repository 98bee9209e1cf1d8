"""What an import is asked for: a released file, and how it fits the benchmark in force."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zslib.benchmark import Split
from zslib.checkpoints.files import ReleasedFile, read_checkpoint
from zslib.embeddings.table import load_class_vectors
from zslib.errors import InputError
from zslib.params import Params
from zslib.params.backbone import ModelParams


@dataclass(frozen=True)
class Request:
    """One released file, and what params.yaml and the command line say about it."""

    file: Path
    out: Path
    params: Params
    split: str
    entry: str | None = None
    """Which entry of the file holds the tensors."""
    semantic: Path | None = None
    embeddings: Path | None = None
    calibration: float | None = None
    """sigma of JoEm, gamma of SPNet."""
    source: str = "imported"
    """Name of a source of class vectors."""

    @property
    def checkpoint(self) -> ReleasedFile:
        return read_checkpoint(self.file, entry=self.entry)

    @property
    def model(self) -> ModelParams:
        return self.params.backbone.model

    def model_of(self, architecture: str) -> ModelParams:
        """Return the network's parameters. Raises InputError for another architecture."""
        if self.model.architecture != architecture:
            raise InputError(
                f"params.yaml:backbone.model.architecture: is {self.model.architecture}, the file's "
                f"network {architecture}; compose params.yaml with model={architecture}"
            )
        return self.model

    @property
    def division(self) -> Split:
        """The split by its name. Raises InputError where the benchmark has none of that name."""
        benchmark = self.params.benchmark
        if self.split not in benchmark.unseen:
            known = ", ".join(benchmark.unseen)
            raise InputError(f"--split: '{self.split}' is not one of {known}; choose one of them")
        unseen = benchmark.unseen[self.split]
        return Split.named(self.split, benchmark.classes, unseen=unseen, void=benchmark.void)

    @property
    def class_embeddings(self) -> Float[Tensor, "c e"]:
        """The artifact `embeddings`. Raises InputError where it is not given or of other classes."""
        if self.embeddings is None:
            raise InputError("--embeddings: missing; give the method's embeddings.safetensors")
        vectors = load_class_vectors(self.embeddings)
        if vectors.classes != tuple(self.params.benchmark.classes):
            raise InputError(f"{self.embeddings}: is of other classes than params.yaml; rerun it")
        return torch.from_numpy(vectors.rows)
