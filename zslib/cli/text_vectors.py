"""`zslib text-vectors`: CLIP's text tower as a source of class vectors."""

from pathlib import Path

import click

from zslib.artifacts.place import refuse_place
from zslib.artifacts.publish import publish
from zslib.cli.command import PARAMS, PATH, command
from zslib.errors import InputError
from zslib.params import load_params


@command
@PARAMS
@click.argument("model")
@click.option("--source", default="clip", show_default=True, help="Whose aliases are in force.")
@click.option("--out", type=PATH, required=True, help="The file of word vectors.")
def text_vectors(params: Path, model: str, source: str, out: Path) -> None:
    """Write CLIP's text vectors of the class names.

    They become a file of word vectors, for `vectors.sources`. MODEL is a name on transformers' hub, or
    a folder. Names are read as they are, in no template, and their vectors are not normalised. An alias
    that the source has for a class is read in its place.
    """
    known = load_params(params)
    sources = known.vectors.sources
    if source not in sources:
        raise InputError(f"--source: '{source}' is not one of {', '.join(sources)}; choose one")
    refuse_place(out)

    from zslib.vision_language.model import VisionLanguageModel
    from zslib.vision_language.text import bare_names, write_word_vectors

    aliases = sources[source].aliases
    names = [aliases.get(name, name) for name in known.benchmark.classes]
    vectors = bare_names(VisionLanguageModel.named(model), names)
    with publish(out) as temporary:
        write_word_vectors(temporary, vectors)
    click.echo(f"{out}: written")
