"""The world as a folder in the official Pascal VOC layout, with captions, corpus and facts.

    VOC2012/JPEGImages/<id>.jpg            VOC2012/SegmentationClass/<id>.png
    VOC2012/ImageSets/Segmentation/{train,val}.txt
    captions.jsonl    corpus.txt    facts.json

Each picture has its own generator, keyed by the seed, its list and its place there; so the bytes do
not depend on how many processes draw.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from zslib.datasets.world.facts import THINGS, facts_table
from zslib.errors import InputError

Progress = Callable[[int, int], None]
"""Called with (pictures drawn so far, pictures in all)."""

LISTS = ("train", "val")

_PICTURES, _SUBJECTS, _CORPUS = 1, 2, 3
"""Second word of every generator's key: streams of the three kinds never coincide."""

_BATCH = 25


@dataclass(frozen=True)
class _Job:
    """What a worker needs to draw one picture."""

    image_id: str
    about: str
    key: tuple[int, ...]


def draw_world(
    out: Path,
    *,
    seed: int,
    train_images: int,
    val_images: int,
    sentences: int,
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Draw and describe the world into the new folder `out`, each time the same bytes.

    Raises:
        InputError: a number is negative, or there is no picture to draw, or no worker to draw it.
    """
    _check(seed=seed, train_images=train_images, val_images=val_images, sentences=sentences)
    if workers < 1 or train_images + val_images == 0:
        raise InputError("dataset: the world needs at least one picture and one worker; raise them")
    root = out / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    jobs = _jobs(seed, dict(zip(LISTS, (train_images, val_images), strict=True)))
    for name, listed in jobs.items():
        lines = "".join(f"{job.image_id}\n" for job in listed)
        (root / "ImageSets/Segmentation" / f"{name}.txt").write_text(lines, encoding="utf-8")
    _draw_all([job for listed in jobs.values() for job in listed], out, workers, progress)
    _write_corpus(out / "corpus.txt", seed, sentences)
    (out / "facts.json").write_text(json.dumps(facts_table(), indent=1) + "\n", encoding="utf-8")


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise InputError(f"dataset.{name}: {number} is negative; give 0 or more")


def _jobs(seed: int, sizes: dict[str, int]) -> dict[str, list[_Job]]:
    """List name -> its pictures; within a list the 40 things take turns at being the subject."""
    jobs: dict[str, list[_Job]] = {}
    first = 0
    for number, (name, size) in enumerate(sizes.items()):
        jobs[name] = [
            _Job(
                image_id=f"world_{first + place:06d}",
                about=about,
                key=(seed, _PICTURES, number, place),
            )
            for place, about in enumerate(_subjects(size, key=(seed, _SUBJECTS, number)))
        ]
        first += size
    return jobs


def _subjects(size: int, *, key: tuple[int, ...]) -> list[str]:
    import numpy as np

    rng = np.random.default_rng(key)
    rounds = -(-size // len(THINGS))
    order = [int(number) for _ in range(rounds) for number in rng.permutation(len(THINGS))]
    return [THINGS[number] for number in order[:size]]


def _draw_all(jobs: list[_Job], out: Path, workers: int, progress: Progress | None) -> None:
    """Draw the pictures, in batches, and write their captions in the order of the lists."""
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    drawn = 0
    with (out / "captions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for captions in _in_processes(partial(_draw_batch, root=out / "VOC2012"), batches, workers):
            file.writelines(captions)
            drawn += len(captions)
            if progress is not None:
                progress(drawn, len(jobs))


def _in_processes(
    draw: Callable[[list[_Job]], list[str]], batches: list[list[_Job]], workers: int
) -> Iterator[list[str]]:
    if workers == 1:
        yield from map(draw, batches)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw, batches)


def _draw_batch(jobs: list[_Job], *, root: Path) -> list[str]:
    """Write the pictures and masks of `jobs`; return their lines for captions.jsonl."""
    return [_draw_one(job, root) for job in jobs]


def _draw_one(job: _Job, root: Path) -> str:
    import numpy as np
    from PIL import Image

    from zslib.datasets.world.palette import palette_image
    from zslib.datasets.world.scenes import draw_scene
    from zslib.datasets.world.text import caption

    rng = np.random.default_rng(job.key)
    scene = draw_scene(job.about, rng=rng)
    image = Image.fromarray(scene.image)
    image.save(root / "JPEGImages" / f"{job.image_id}.jpg", quality=90)
    mask = palette_image(scene.label_map)
    mask.save(root / "SegmentationClass" / f"{job.image_id}.png", optimize=False)
    sentences = [caption(scene.things, scene.stuff, rng=rng) for _ in range(2)]
    return json.dumps({"id": job.image_id, "captions": sentences}) + "\n"


def _write_corpus(path: Path, seed: int, sentences: int) -> None:
    import numpy as np

    from zslib.datasets.world.text import corpus

    rng = np.random.default_rng([seed, _CORPUS])
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{sentence}\n" for sentence in corpus(sentences, rng=rng))
