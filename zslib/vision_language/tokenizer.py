"""A byte-pair tokenizer of CLIP's kind, trained on captions by `tokenizers` (simbaseline, note 7)."""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77

_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> CLIPTokenizer:
    """Return a tokenizer of at most so many tokens; it can write any text, byte by byte.

    Every byte is there with a word's end as well: one that is missing would be taken for the end of
    the text, in mid-sentence, and read out there without a word. They are told to the trainer first:
    it would number them in the order of its hash table, another one in every run, and break ties
    between merges by these numbers.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len((START, END)),
        special_tokens=[byte + _WORD_END for byte in alphabet],
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate([*tokens, START, END])},
        merges=[tuple(pair) for pair in learned["merges"]],
        model_max_length=MAX_TOKENS,
    )
