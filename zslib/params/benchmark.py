"""What is learned and scored, from which images, with which class vectors."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zslib.params.section import Section

Layout = Literal["voc12", "context", "context33", "cocostuff", "ade20k", "cityscapes"]
Role = Literal["train", "val"]
VocLists = Literal["train", "trainaug", "sbd"]
UnseenImages = Literal["drop", "ignore", "drop_void"]
"""Training images with unseen pixels leave; or stay, with those void; or stay if a seen pixel is left."""

BACKGROUND = "background"
"""The class of what has no other; where there is one it is always seen (zs3net §1.3)."""

FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""What folders and files are called by."""


class BenchmarkParams(Section):
    """The protocol of one published benchmark; see `zslib.benchmark`."""

    name: FileName
    classes: list[Annotated[str, Field(min_length=1)]] = Field(min_length=2)
    """Index = class id = value in the masks."""
    void: list[str] = Field([])
    """Classes that count as void everywhere (the background of the SPNet protocol)."""
    unseen: dict[FileName, Annotated[list[str], Field(min_length=1)]]
    """Split name -> its unseen classes."""
    unseen_images: UnseenImages = "drop"
    trained_on: str | None = None
    """Cross-dataset evaluation: the benchmark whose model is tried on these classes. None of them counts
    as seen, whatever that benchmark calls its own, and nothing is trained here."""
    source_splits: list[str] = Field([], max_length=1)
    """With trained_on: the split of that benchmark whose model it is, in a list since DVC's stages stand
    on lists."""

    def unseen_in(self, split: str) -> Sequence[str]:
        """Return the unseen classes of a split: with trained_on, all that are not void."""
        if self.trained_on:
            return [name for name in self.classes if name not in self.void]
        return self.unseen[split]

    @model_validator(mode="after")
    def _names_exist(self) -> "BenchmarkParams":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name occurs twice")
        for split, names in {"void": self.void, **self.unseen}.items():
            if unknown := sorted(set(names) - set(self.classes)):
                raise ValueError(f"{split}: not among the classes: {', '.join(unknown)}")
        for split, names in self.unseen.items():
            if both := sorted(set(names) & set(self.void)):
                raise ValueError(f"{split}: void as well: {', '.join(both)}")
            if len(set(names)) != len(names):
                raise ValueError(f"unseen.{split}: a name occurs twice")
            if len(names) + len(self.void) >= len(self.classes):
                raise ValueError(f"unseen.{split}: leaves no class that is seen")
        if self.trained_on and self.unseen:
            raise ValueError(
                "unseen: leave it empty with trained_on, which makes all of them unseen"
            )
        if bool(self.trained_on) != bool(self.source_splits):
            raise ValueError("source_splits: name one split with trained_on, and none without")
        return self


class DatasetParams(Section):
    """Where the images are, and in which official layout."""

    layout: Layout = "voc12"
    root: str = Field(min_length=1)
    lists: VocLists = "train"
    """Of the layout voc12; the others have one convention each."""
    published: dict[Role, int] | None = None
    """How many images the protocol was published with, where that is known; the doctor tells."""


class WorldParams(Section):
    """The built-in world (DESIGN §5)."""

    seed: int = 0
    train_images: int = Field(2000, ge=1)
    val_images: int = Field(400, ge=1)
    sentences: int = Field(20000, ge=100)


class CorpusTraining(Section):
    """word2vec or fastText trained by gensim on a text corpus (skip-gram, negative sampling)."""

    algorithm: Literal["word2vec", "fasttext"]
    dimension: int = Field(64, ge=2)
    window: int = Field(5, ge=1)
    epochs: int = Field(5, ge=1)
    negative: int = Field(10, ge=1)
    min_count: int = Field(1, ge=1)
    subsample: float = Field(1e-3, ge=0)
    """Words more frequent than this share of the corpus are thinned; 0 keeps all."""
    subword_buckets: int = Field(20_000, ge=1)
    """fastText: rows that the character n-grams share."""
    seed: int = 0


class VectorSourceParams(Section):
    """One source of class vectors: trained on the corpus `input`, or read from the file `input`."""

    input: str
    train: CorpusTraining | None = None
    format: Literal["text", "binary", "gensim", "fasttext"] | None = None
    aliases: dict[str, str] = Field({})
    """Class name -> what to look up in its place; the name itself where the vectors lack that."""
    multiword: Literal["token", "mean"] = "mean"

    @model_validator(mode="after")
    def _one_origin(self) -> "VectorSourceParams":
        if (self.train is None) == (self.format is None):
            raise ValueError("give exactly one of 'train' (input is a corpus) and 'format'")
        return self


Sources = Annotated[list[str], Field(min_length=1)]


class VectorRecipe(Section):
    """How a method combines the sources into its class embeddings."""

    sources: Sources
    normalise: Literal["none", "max", "max_each", "unit", "unit_joint"] = "unit"

    def with_sources(self, source: str | Sources | None) -> "VectorRecipe":
        """Return the recipe with another source, or other ones; None keeps the method's own."""
        if source is None:
            return self
        return self.model_copy(update={"sources": [source] if isinstance(source, str) else source})


class VectorsParams(Section):
    """Every source of class vectors, and which of them all methods take."""

    source: str | Sources | None = None
    """One name, or several side by side; null: each method takes what it was published with."""
    sources: dict[str, VectorSourceParams]

    @model_validator(mode="after")
    def _source_exists(self) -> "VectorsParams":
        wanted = [self.source] if isinstance(self.source, str) else self.source
        for name in wanted or []:
            if name not in self.sources:
                known = ", ".join(self.sources)
                raise ValueError(f"source: '{name}' is not one of the sources {known}")
        return self
