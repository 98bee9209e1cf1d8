"""Score SimBaseline's per-pixel variants: the trained branch, CLIP's, and both."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.command import EXISTING, PATH, Sections, stage

if TYPE_CHECKING:
    from zslib.benchmark import ProtocolName
    from zslib.methods.simbaseline.fcn_segmenters import By

DECIDED_BY = click.Choice(["pixels", "windows", "both"])
PROTOCOL = click.Choice(["clean", "official"])


@stage
@click.option(
    "--row",
    "rows",
    type=(DECIDED_BY, str, PROTOCOL),
    multiple=True,
    required=True,
    help="Which branch decides, name in the leaderboard, protocol.",
)
@click.option("--images", type=EXISTING, required=True, help="images.json of the index.")
@click.option("--network", type=EXISTING, required=True, help="A trained FCN.")
@click.option("--model", type=EXISTING, required=True, help="CLIP.")
@click.option("--text", type=EXISTING, required=True, help="Class names read in template sets.")
@click.option("--labels", type=EXISTING, required=True, help="Validation labels.")
@click.option("--scores", type=PATH, required=True, help="Folder of the metrics files (JSON).")
def main(
    section: Sections,
    *,
    rows: "tuple[tuple[By, str, ProtocolName], ...]",
    images: Path,
    network: Path,
    model: Path,
    text: Path,
    labels: Path,
    scores: Path,
    out: Path,
) -> None:
    """Segment the validation images pixel by pixel, and score them.

    Reads params.yaml:simbaseline.fcn.prompts, simbaseline.fcn.windows, simbaseline.fcn.weight,
    simbaseline.test, evaluate, seed. Example:
    python -m stages.simbaseline_fcn_evaluate --row both simbaseline-fcn-fused clean
    --network artifacts/world/u4/simbaseline/fcn.safetensors ... --scores results/world
    --out evaluations/world/u4/simbaseline-fcn
    """
    prompts, weight = section("simbaseline.fcn.prompts"), section("simbaseline.fcn.weight")
    windows, views = section("simbaseline.fcn.windows"), section("simbaseline.test")
    params, seed = section("evaluate"), section("seed")
    compute = section("compute")

    from zslib.artifacts.maps import open_labels
    from zslib.datasets.index import ImageIndex
    from zslib.embeddings.table import load_class_vectors
    from zslib.evaluation import Entry, score
    from zslib.methods.simbaseline.extraction import TestImages
    from zslib.methods.simbaseline.fcn import PixelEmbedder
    from zslib.methods.simbaseline.fcn_segmenters import by_pixels, by_windows, segmenter
    from zslib.methods.simbaseline.segmenters import scored_classes, text_rows
    from zslib.training import start_runtime
    from zslib.vision_language.model import VisionLanguageModel

    index, runtime = ImageIndex.load(images), start_runtime(compute)
    embedder, clip = PixelEmbedder.load(network), VisionLanguageModel.load(model)
    split, ids = embedder.split, index.ids("val")
    names = load_class_vectors(text / f"{prompts}.safetensors")
    class_text = text_rows(names, scored_classes(split))
    shown = TestImages.of(index, ids, views)
    scales = [TestImages.of(index, ids, views.at(scale.short_side)) for scale in windows.scales]
    trained = by_pixels(embedder, shown, class_text, runtime)
    untrained = by_windows(clip, scales, class_text, windows, runtime)
    segmenters = {
        Entry(split.name, method, protocol, seed=seed): segmenter(
            decided_by, trained, untrained, shown, split, weight
        )
        for decided_by, method, protocol in rows
    }
    score(segmenters, open_labels(labels), params, folder=out, scores=scores)


if __name__ == "__main__":
    main()
