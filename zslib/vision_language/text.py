"""Class names as text vectors: one per name and template, cached, and their means (simbaseline §4, §11).

Schema TEMPLATE_TEXT: `/rows` (T, K, D) float32 unit vectors of every template with every name; the
description holds both lists and the key of the model, so any set of templates is a mean over it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import load_tensors, save_tensors
from zslib.embeddings.table import ClassVectors
from zslib.errors import ArtifactError, InputError
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.templates import TEMPLATES, sentence

TEMPLATE_TEXT = Schema("template_text/1", "text_vectors")


@dataclass(frozen=True, eq=False)
class TemplateText:
    """The text vectors of names in templates; `key` is that of the model."""

    names: tuple[str, ...]
    templates: tuple[str, ...]
    rows: Float32[np.ndarray, "t k d"]
    key: str

    @classmethod
    def embed(
        cls, model: VisionLanguageModel, names: Sequence[str], templates: Sequence[str]
    ) -> "TemplateText":
        """Read every name in every template."""
        texts = [sentence(template, name) for template in templates for name in names]
        rows = model.embed_texts(texts).cpu().numpy()
        shape = (len(templates), len(names), model.dimension)
        return cls(tuple(names), tuple(templates), rows.reshape(shape), model.key)

    def save(self, path: Path) -> None:
        """Publish the cache."""
        meta = {"names": list(self.names), "templates": list(self.templates), "model": self.key}
        save_tensors(path, {"rows": self.rows}, schema=TEMPLATE_TEXT, meta=meta)

    @classmethod
    def load(cls, path: Path, *, key: str | None = None) -> "TemplateText":
        """Open and verify a cache.

        Raises:
            ArtifactError: the file is damaged, or was made with another model than the one of `key`.
        """
        tensors, meta = load_tensors(path, schema=TEMPLATE_TEXT)
        if key not in (None, meta["model"]):
            raise ArtifactError(
                f"{path}: was made with another vision-language model; {TEMPLATE_TEXT.remedy}"
            )
        names, templates = tuple(meta["names"]), tuple(meta["templates"])
        return cls(names, templates, tensors["rows"], meta["model"])

    def mean(self, templates: Sequence[str]) -> Float32[np.ndarray, "k d"]:
        """Return, per name, the mean of unit vectors over some templates, to unit norm again.

        Raises:
            InputError: a template is not in the cache.
        """
        if missing := [t for t in templates if t not in self.templates]:
            raise InputError(f"templates: '{missing[0]}' is not cached; rerun 'text_vectors'")
        mean = self.rows[[self.templates.index(t) for t in templates]].mean(axis=0)
        return mean / np.linalg.norm(mean, axis=-1, keepdims=True)

    def class_vectors(self, templates: str) -> ClassVectors:
        """Return the class vectors of a named set of templates."""
        made_from: Mapping[str, Any] = {"templates": templates, "model": self.key}
        rows = self.mean(TEMPLATES[templates])  # type: ignore[index]
        return ClassVectors(f"clip-{templates}", self.names, rows, made_from)


@torch.no_grad()
def bare_names(model: VisionLanguageModel, names: Sequence[str]) -> ClassVectors:
    """Return the vectors of names in no template, of the length that the model gives them (sazs §2.1)."""
    tokens = model.tokenizer(list(names), padding=True, return_tensors="pt").to(model.clip.device)
    rows = model.clip.get_text_features(**tokens).pooler_output.cpu().numpy()
    return ClassVectors("clip-bare", tuple(names), rows, {"model": model.key})


def write_word_vectors(path: Path, vectors: ClassVectors) -> None:
    """Write class vectors as a word2vec file, for `vectors.sources` to name; spaces become '_'."""
    names = ["_".join(name.split()) for name in vectors.classes]
    with path.open("wb") as file:
        file.write(f"{len(names)} {vectors.rows.shape[1]}\n".encode())
        for name, row in zip(names, vectors.rows, strict=True):
            file.write(name.encode() + b" " + row.astype("<f4").tobytes() + b"\n")
