"""Where what was trained lies, which stage makes it, and which of it a prediction was made with."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zslib.errors import InputError
from zslib.params import Params

_NO_MODEL = (
    "naming classes needs a vision-language model: set vision_language.models, or name one with "
    "--artifact clip=FOLDER"
)


@dataclass(frozen=True)
class Artifact:
    """One file or folder below artifacts/<benchmark>; `{split}` stands for the split's name."""

    path: str
    stage: str
    """As DVC calls it."""

    @property
    def is_folder(self) -> bool:
        return not Path(self.path).suffix


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of a benchmark and split; `given` are those that the user named, by their name."""

    root: Path
    split: str
    given: Mapping[str, Path] = field(default_factory=dict)
    changes: Sequence[str] = ()
    """Of parameters, without which DVC knows no stage of this benchmark and split."""
    unmade: Mapping[str, str] = field(default_factory=dict)
    """By name, what to do about an artifact that no stage makes with these parameters."""
    used: dict[str, Path] = field(default_factory=dict)
    """All that were asked for so far."""

    @classmethod
    def of(
        cls, params: Params, split: str, given: Mapping[str, Path], *, in_force: Params
    ) -> "Artifacts":
        """Return the artifacts of a benchmark's split, which params.yaml may or may not train."""
        name, changes = params.benchmark.name, []
        if name != in_force.benchmark.name:
            changes.append(f"-S benchmark={name}")
        if split not in params.splits:
            changes.append(f"-S 'splits=[{split}]'")
        unmade = {} if params.vision_language.models else {"clip": _NO_MODEL}
        return cls(Path("artifacts") / name, split, given, changes, unmade)

    def find(self, name: str, artifact: Artifact) -> Path:
        """Return where an artifact lies.

        Raises:
            InputError: there is none, and the message names the stage that makes it, if one does; it is
                a folder for a file, or a file for a folder.
        """
        own = self.root / artifact.path.format(split=self.split)
        path = self.given.get(name, own)
        if not path.exists():
            remedy = self.unmade.get(name) or self._remedy(name, artifact)
            raise InputError(f"{path}: there is no such artifact; {remedy}")
        if path.is_dir() != artifact.is_folder:
            raise InputError(
                f"{path}: is {_kind(path.is_dir())}, where {own} is {_kind(artifact.is_folder)}; "
                f"name another with --artifact {name}=PATH"
            )
        self.used[name] = path
        return path

    def digests(self) -> dict[str, dict[str, str]]:
        """Return, by name, the path of every artifact that was used, and a checksum of its content.

        Raises:
            InputError: an artifact that the user named was never asked for.
        """
        if idle := sorted(set(self.given) - set(self.used)):
            raise InputError(
                f"--artifact {idle[0]}: nothing of this name is read for this prediction; it reads "
                f"{', '.join(sorted(self.used))}"
            )
        return {
            name: {"path": str(path), "sha256": _digest(path)}
            for name, path in sorted(self.used.items())
        }

    def _remedy(self, name: str, artifact: Artifact) -> str:
        stage = artifact.stage.format(split=self.split)
        command = " ".join(["exp run", *self.changes] if self.changes else ["repro"])
        return (
            f"run `dvc {command} {stage}`, which makes it, or name another with "
            f"--artifact {name}=PATH"
        )


def named_paths(given: Sequence[str]) -> dict[str, Path]:
    """Return the paths of a list of NAME=PATH. Raises InputError where one is not."""
    pairs = [text.partition("=") for text in given]
    if wrong := [
        text for text, (name, _, path) in zip(given, pairs, strict=True) if not (name and path)
    ]:
        raise InputError(f"--artifact: '{wrong[0]}' is not NAME=PATH; correct it")
    return {name: Path(path) for name, _, path in pairs}


def _kind(is_folder: bool) -> str:
    return "a folder" if is_folder else "a file"


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of its files' names and SHA-256."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path)} {_digest(file)}\n" for file in files]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
