"""Draw the built-in world."""

from pathlib import Path

from stages.command import Sections, stage


@stage
def main(section: Sections, *, out: Path) -> None:
    """Draw the built-in world: images and masks in VOC layout, captions, a text corpus.

    Reads params.yaml:world. Example: python -m stages.world --out data/world
    """
    params = section("world")

    import os

    from zslib.artifacts import publish
    from zslib.datasets.world.folder import draw_world

    with publish(out) as folder:
        draw_world(
            folder,
            seed=params.seed,
            train_images=params.train_images,
            val_images=params.val_images,
            sentences=params.sentences,
            workers=len(os.sched_getaffinity(0)),
        )


if __name__ == "__main__":
    main()
