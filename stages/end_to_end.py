"""What stages that train a whole network share: their options, and what those name, opened."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stages.command import EXISTING, PATH, Sections, scratch

if TYPE_CHECKING:
    from torch import Tensor

    from zslib.backbones.trained import Backbone
    from zslib.fine_tuning import LabelledImages, Run
    from zslib.params.training import ComputeParams


@dataclass(frozen=True)
class Opened:
    """What a network is trained with."""

    backbone: "Backbone"
    images: "LabelledImages"
    class_embeddings: "Tensor"
    run: "Run"


@dataclass(frozen=True)
class Inputs:
    """The files that such a stage reads, what it writes, and where it runs."""

    images: Path
    labels: Path
    network: Path
    embeddings: Path
    curves: Path
    out: Path
    compute: "ComputeParams"

    @contextmanager
    def opened(
        self, name: str, sections: Sequence[Any], *, seed: int, more: Sequence[Path] = ()
    ) -> Iterator[Opened]:
        """Yield what the files hold; once the artifact is published, write the curves.

        A run that was killed goes on if the files, `more` of them, the parameters in `sections`,
        and the seed are the same.
        """
        import torch

        from zslib.artifacts.maps import open_labels
        from zslib.backbones.trained import Backbone
        from zslib.datasets.index import ImageIndex
        from zslib.embeddings.table import load_class_vectors
        from zslib.fine_tuning import LabelledImages, Run
        from zslib.training import Curves, start_runtime

        images = LabelledImages.of(ImageIndex.load(self.images).file, open_labels(self.labels))
        backbone, curves = Backbone.load(self.network), Curves(self.curves, every=50)
        class_embeddings = torch.from_numpy(load_class_vectors(self.embeddings).rows)
        runtime, name = start_runtime(self.compute), f"{name} {images.split.name}"
        files = [self.images, self.labels, self.network, self.embeddings, *more]
        with scratch(self.out, files, [*sections, seed]) as folder:
            run = Run(name, seed, self.compute, runtime, folder, curves)
            yield Opened(backbone, images, class_embeddings, run)
            curves.write()


def end_to_end(function: Callable[..., None]) -> Callable[..., None]:
    """Give a stage the options that all of them have; it gets `inputs` for them, and `out`."""

    @click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
    @click.option("--labels", type=EXISTING, required=True, help="Seen labels.")
    @click.option("--network", type=EXISTING, required=True, help="The seen-only backbone.")
    @click.option("--embeddings", type=EXISTING, required=True)
    @click.option("--curves", type=PATH, required=True)
    @functools.wraps(function)
    def with_inputs(
        section: Sections,
        *,
        images: Path,
        labels: Path,
        network: Path,
        embeddings: Path,
        curves: Path,
        out: Path,
        **own: Any,
    ) -> None:
        compute = section("compute").without_scaling()
        inputs = Inputs(images, labels, network, embeddings, curves, out, compute)
        function(section, inputs=inputs, out=out, **own)

    return with_inputs
