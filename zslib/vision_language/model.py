"""CLIP of transformers as an artifact: one folder in transformers' own layout, with checksums.

What it saw in training is not ours to choose: captions, of the web or of the world, name unseen
classes as well. No label and no mask is among it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from zslib.artifacts.publish import publish
from zslib.artifacts.schemas import Schema
from zslib.artifacts.weights import check_schema
from zslib.errors import ArtifactError, InputError

MODEL = Schema("vision_language/1", "vision_language")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of RGB in [0, 1]: CLIP's normalisation, also of a CLIP trained here."""

disable_progress_bar()  # of reading weights: a stage shows its own

_LIST = "zslib.json"
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class VisionLanguageModel:
    """Image and text towers, frozen; both end in unit vectors of one space.

    `meta` says where the weights come from.
    """

    clip: CLIPModel
    tokenizer: CLIPTokenizer
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clip.eval().requires_grad_(False)

    @classmethod
    def named(cls, name: str) -> "VisionLanguageModel":
        """Return a CLIP by its name on the hub, or from a folder in the same layout.

        `name@revision` is the model as it was at one commit of the hub. transformers reads
        safetensors, or tensors alone out of a pickle; it runs no code of others.

        Raises:
            InputError: there is no such model, or it is no CLIP.
        """
        place, revision = name, None
        if not Path(name).exists() and "@" in name:
            place, revision = name.rsplit("@", 1)
        try:
            kind = AutoConfig.from_pretrained(place, revision=revision).model_type
            clip = CLIPModel.from_pretrained(place, revision=revision, dtype=torch.float32)
            tokenizer = CLIPTokenizer.from_pretrained(place, revision=revision)
        except (OSError, RuntimeError, SafetensorError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"vision_language.name: '{name}' cannot be loaded as a CLIP ({reason}); "
                "correct the name, or give the folder of a downloaded one"
            ) from error
        if kind != "clip":  # transformers would go on with random weights
            raise InputError(
                f"vision_language.name: '{name}' is a {kind}, no CLIP; correct the name"
            )
        return cls(clip, tokenizer, {"name": name})

    def save(self, folder: Path) -> None:
        """Publish the model as a folder; the same weights give the same bytes."""
        # How the last texts were padded and cut would be kept as well.
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        with publish(folder) as temporary:
            self.clip.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            written = {
                "schema": MODEL.name,
                "meta": dict(self.meta),
                "files": _checksums(temporary),
            }
            text = json.dumps(written, indent=1, sort_keys=True)
            (temporary / _LIST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "VisionLanguageModel":
        """Open and verify a folder of `save`.

        Raises:
            ArtifactError: a file is missing or altered, or it is another kind of folder.
        """
        listing = folder / _LIST
        try:
            written = json.loads(listing.read_text(encoding="utf-8"))
            files, meta = dict(written["files"]), dict(written["meta"])
            found = _checksums(folder)
        except KeyError as error:
            raise ArtifactError(f"{listing}: lacks the key {error}; {MODEL.remedy}") from error
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactError(f"{listing}: cannot be read ({error}); {MODEL.remedy}") from error
        check_schema(listing, found=written.get("schema"), wanted=MODEL)
        for name, digest in files.items():
            if name not in found:
                raise ArtifactError(
                    f"{listing}: names '{name}', which is not there; {MODEL.remedy}"
                )
            if found[name] != digest:
                raise ArtifactError(
                    f"{folder / name}: does not match its checksum in {_LIST}; {MODEL.remedy}"
                )
        clip = CLIPModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        return cls(clip, CLIPTokenizer.from_pretrained(folder), meta)

    @cached_property
    def key(self) -> str:
        """A digest of the weights: whatever is cached of this model carries it (simbaseline §11)."""
        digest = xxhash.xxh3_128()
        for name, weight in sorted(self.clip.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def dimension(self) -> int:
        return self.clip.config.projection_dim

    @property
    def image_size(self) -> int:
        return self.clip.config.vision_config.image_size

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return unit vectors of normalised images; positions are stretched to other sizes."""
        square = images.shape[-2:] == (self.image_size, self.image_size)
        output = self.clip.get_image_features(images, interpolate_pos_encoding=not square)
        return F.normalize(output.pooler_output, dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return unit vectors of texts; what is longer than the model can read is cut."""
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = list(texts[start : start + _TEXTS_AT_ONCE])
            tokens = self.tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            output = self.clip.get_text_features(**tokens.to(self.clip.device))
            parts.append(F.normalize(output.pooler_output, dim=-1))
        return torch.cat(parts)


def normalise(images: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Return RGB images of 0..255 as CLIP wants them."""
    mean, std = (torch.tensor(row, device=images.device).view(3, 1, 1) * 255 for row in (MEAN, STD))
    return (images - mean) / std


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != _LIST)
    return {path.name: xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files}
