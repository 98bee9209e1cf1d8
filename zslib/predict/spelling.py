"""How CLIP reads class names: its tokenizer spells what it does not know, and a sentence has an end."""

import logging
from collections.abc import Iterator, Sequence

from transformers import CLIPTokenizer

from zslib.errors import InputError
from zslib.vision_language.model import VisionLanguageModel
from zslib.vision_language.templates import sentence

log = logging.getLogger(__name__)

_WORD_END = "</w>"


def warn_of_spelled(model: VisionLanguageModel, names: Sequence[str]) -> None:
    """Name what CLIP does not know, in one line."""
    if unknown := spelled(model.tokenizer, names):
        log.warning(
            "warning: --classes: CLIP can only spell %s, letter by letter: its captions hardly had "
            "such words; expect little of them",
            ", ".join(f"'{name}'" for name in unknown),
        )


def spelled(tokenizer: CLIPTokenizer, names: Sequence[str]) -> list[str]:
    """Return the names with a word that is read letter by letter, at least for half of its pieces.

    Byte pairs can write any text, so that there is no unknown word; but of one that no text had when
    the pairs were learned, little is left but its bytes.
    """
    return [name for name in names if any(map(_is_spelled, _words(tokenizer, name)))]


def refuse_long(model: VisionLanguageModel, names: Sequence[str], templates: Sequence[str]) -> None:
    """Raise InputError for a name that is too long for the text tower in some template."""
    tokenizer, positions = model.tokenizer, model.clip.config.text_config.max_position_embeddings
    limit = min(positions, tokenizer.model_max_length)
    for name in names:
        texts = [sentence(template, name) for template in templates]
        lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
        if max(lengths) > limit:
            raise InputError(
                f"--classes: '{name}' is {max(lengths)} tokens long in a sentence, CLIP's text tower "
                f"takes {limit}; shorten the name"
            )


def _words(tokenizer: CLIPTokenizer, name: str) -> Iterator[list[str]]:
    """Yield the pieces of each word."""
    pieces: list[str] = []
    for piece in tokenizer.tokenize(name):
        pieces.append(piece.removesuffix(_WORD_END))
        if piece.endswith(_WORD_END):
            yield pieces
            pieces = []


def _is_spelled(pieces: Sequence[str]) -> bool:
    return len(pieces) > 1 and 2 * sum(len(piece) == 1 for piece in pieces) >= len(pieces)
