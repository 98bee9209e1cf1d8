"""What is asked for: a photograph, class names, and the parameters in force."""

import io
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from zslib.benchmark import IGNORE_INDEX, Split
from zslib.datasets.decode import read_bytes, read_image
from zslib.datasets.doctor import Problem
from zslib.errors import ImageError, InputError
from zslib.params import Params, load_params
from zslib.predict.artifacts import Artifacts

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Request:
    """One photograph, to be divided among class names."""

    photograph: Path
    """Its pixels stand upright."""
    image: Image.Image
    """The same, read."""
    names: tuple[str, ...]
    """In alphabetical order, so that the answer does not depend on how they were given."""
    params: Params
    artifacts: Artifacts
    scratch: Path
    """A folder for what is made on the way."""

    @classmethod
    def read(
        cls,
        photograph: Path,
        names: Sequence[str],
        params: Params,
        artifacts: Artifacts,
        *,
        scratch: Path,
    ) -> "Request":
        """Return a request for a photograph, which is turned upright if its EXIF tag says so.

        Raises:
            ImageError: the photograph is missing, damaged, or of a kind that is refused.
        """
        try:
            upright = _upright(photograph, scratch)
            image = read_image(upright)
        except ImageError as error:  # the remedies are those of a dataset
            what = Problem.of(error).what
            raise ImageError(
                f"{photograph}: {what}; give a JPEG or PNG photograph of 8 bits, RGB or grey"
            ) from error
        return cls(upright, image, tuple(sorted(names)), params, artifacts, scratch)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        return self.image.height, self.image.width

    def split(self, learned: Split) -> Split:
        """Return the names as seen ones, which had labels when `learned` was, and unseen ones."""
        seen = {learned.classes[c] for c in learned.seen}
        unseen = [position for position, name in enumerate(self.names) if name not in seen]
        return Split.from_ids(learned.name, self.names, unseen, ())


def class_names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas.

    Raises:
        InputError: fewer than two, too many, an empty one, or the same one twice.
    """
    names = tuple(" ".join(name.split()) for name in readable(text).split(","))
    if not all(names):
        raise InputError(f"--classes: '{text}' has an empty name in it; remove the extra comma")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--classes: '{twice[0]}' is listed twice; remove one")
    if len(names) < 2:
        raise InputError(
            f"--classes: '{text}' is one class, and every pixel would be it; name also what else "
            "the photograph may show"
        )
    if len(names) > IGNORE_INDEX:
        raise InputError(f"--classes: {len(names)} names; give at most {IGNORE_INDEX}")
    return names


def readable(text: str) -> str:
    """Return text of the command line as it was typed.

    Python tells bytes that the locale has no letters for, in locale C all but ASCII, by surrogates,
    which no file can hold.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chosen_params(path: Path, benchmark: str | None) -> Params:
    """Return the parameters in force, or those that `conf` beside them holds for another benchmark.

    Raises:
        InputError: the file is wrong, or `conf` has no such benchmark.
    """
    params, conf = load_params(path), path.parent / "conf"
    if benchmark in (None, params.benchmark.name):
        return params
    known = sorted(file.stem for file in (conf / "benchmark").glob("*.yaml"))
    if benchmark not in known:
        there = ", ".join(known) or f"only that of {path}, '{params.benchmark.name}'"
        raise InputError(f"--benchmark: there is no '{benchmark}'; there are {there}")
    from dvc.utils.hydra import compose_and_dump

    with tempfile.TemporaryDirectory(prefix="zslib-predict-") as folder:
        composed, choice = Path(folder) / "params.yaml", [f"benchmark={benchmark}"]
        plugins = conf / "plugins"
        compose_and_dump(composed, str(conf.resolve()), None, "config", str(plugins), choice)
        return load_params(composed)


def _upright(photograph: Path, folder: Path) -> Path:
    """Return the photograph, or a copy whose pixels are turned as a viewer would turn them.

    Label maps of datasets do not turn, so their photographs are refused; here there is none.
    """
    content = read_bytes(photograph)
    with suppress(Exception):  # what cannot be decoded is explained when it is read
        stored = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        if stored.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
            copy = folder / f"{photograph.stem}.png"
            ImageOps.exif_transpose(stored).save(copy)
            return copy
    return photograph
