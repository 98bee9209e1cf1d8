"""Sentences about the world: captions of scenes, and the corpus that word vectors are trained on.

Both come from the same facts as the pictures. The corpus says of every class, seen or unseen, what
it looks like, whom it resembles and where it lives, so that words for classes which share
attributes keep similar company.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from zslib.datasets.world.facts import FACTS, NEIGHBOURS, STUFF, STUFF_COLOUR, THINGS, Thing, kin

KIND = {
    "quadruped": ("quadruped", "beast"),
    "bird": ("bird", "flyer"),
    "fish": ("fish", "swimmer"),
    "vehicle": ("vehicle", "wagon"),
    "boat": ("boat", "vessel"),
    "shell": ("crawler", "shellback"),
}

PARTS = {
    "quadruped": ("legs", "hooves", "tail"),
    "bird": ("wings", "beak", "feathers"),
    "fish": ("fins", "gills", "scales"),
    "vehicle": ("wheels", "windows", "doors"),
    "boat": ("hull", "sail", "mast"),
    "shell": ("shell", "dome", "feelers"),
}

DOES = {
    "quadruped": ("walks", "gallops", "stands"),
    "bird": ("flies", "flutters", "perches"),
    "fish": ("swims", "dives", "glides"),
    "vehicle": ("drives", "brakes", "parks"),
    "boat": ("sails", "floats", "anchors"),
    "shell": ("crawls", "creeps", "rests"),
}

PATTERN = {
    "plain": ("plainness", "one colour"),
    "striped": ("stripes", "bands"),
    "spotted": ("spots", "dots"),
    "patched": ("patches", "blotches"),
    "checked": ("checks", "squares"),
}

_PREPOSITION = {"forest": "in", "water": "by", "sky": "under"}

_THING_SENTENCES = (
    "the {name} is a {kind} with {part}",
    "a {name} is a kind of {kind} that {does}",
    "the {kind} called {name} {does} on its {part}",
    "the {name} is shaped like the {shape_kin}",
    "the {part} of a {name} are like the {part} of a {shape_kin}",
    "the {name} and the {shape_kin} are each a {kind}",
    "the {name} is {colour}",
    "a {colour} {name} {does} past",
    "the {name} is {colour} like the {colour_kin}",
    "the {name} and the {colour_kin} are both {colour}",
    "the {name} is {texture}",
    "a {texture} {name} {does} by",
    "the {name} is {texture} like the {texture_kin}",
    "both the {name} and the {texture_kin} are {texture}",
    "a {texture} {colour} {kind} is a {name}",
    "the {name} is a {texture} {colour} {kind}",
    "a {name} lives near the {habitat}",
    "the {name} {does} on the {habitat}",
    "on the {habitat} the {name} meets the {habitat_kin}",
    "the {name} {does} near the {habitat_kin}",
)

_MARKED_SENTENCES = (
    "the {name} has {marks} {pattern} on {colour}",
    "a {name} with {marks} {pattern} {does} by",
    "the {name} has the {pattern} of the {texture_kin}",
    "the {colour} {name} wears {marks} {pattern}",
    "the {marks} {pattern} of the {name} are like those of the {texture_kin}",
)

_UNMARKED_SENTENCES = (
    "the {name} is all {colour}",
    "a {name} is plain {colour} without marks",
    "the plain {name} has no marks like the {texture_kin}",
)

_STUFF_SENTENCES = (
    "the {stuff} is {colour} and lies beside the {other}",
    "the {name} {does} where the {stuff} meets the {other}",
    "beyond the {stuff} there is {other} under the sky",
    "the sky is blue above the {stuff} and the {other}",
    "the wide {stuff} is home of the {name}",
)


def caption(things: Sequence[str], stuff: Sequence[str], *, rng: np.random.Generator) -> str:
    """One sentence about a scene: "a tiger with black stripes walks on the grass under the sky"."""
    subject = " and ".join(_noun_phrase(FACTS[name], rng) for name in things) or "nothing"
    verb = "appear" if len(things) > 1 else "appears"
    if len(things) == 1:
        verb = _pick(DOES[FACTS[things[0]].shape], rng)
    place = "".join(f" {_PREPOSITION.get(name, 'on')} the {name}" for name in reversed(stuff))
    return _with_articles(f"{subject} {verb}{place}")


def corpus(sentences: int, *, rng: np.random.Generator) -> Iterator[str]:
    """Lower-case sentences without punctuation; every thing class is told of equally often."""
    for number in range(sentences):
        if number % 10 == 9:
            yield _with_articles(_about_stuff(rng))
        else:
            thing = FACTS[THINGS[(number - number // 10) % len(THINGS)]]
            yield _with_articles(about_thing(thing, rng=rng))


def about_thing(thing: Thing, *, rng: np.random.Generator) -> str:
    """One sentence that states a fact about `thing`, often by comparing it with its kin."""
    own = _UNMARKED_SENTENCES if thing.marks == "none" else _MARKED_SENTENCES
    template = _pick(_THING_SENTENCES + own, rng)
    return template.format(**_words(thing, rng))


def _about_stuff(rng: np.random.Generator) -> str:
    thing = FACTS[_pick(THINGS, rng)]
    stuff = _pick(STUFF[1:], rng) if rng.random() < 0.5 else thing.habitat
    inhabitants = [name for name in THINGS if FACTS[name].habitat == stuff]
    words = _words(FACTS[_pick(inhabitants, rng)], rng)
    words |= {"stuff": stuff, "other": _pick(NEIGHBOURS[stuff], rng), "colour": STUFF_COLOUR[stuff]}
    return _pick(_STUFF_SENTENCES, rng).format(**words)


def _words(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    """What the blanks of a sentence about `thing` may be filled with."""
    return {
        "name": thing.name,
        "kind": _pick(KIND[thing.shape], rng),
        "part": _pick(PARTS[thing.shape], rng),
        "does": _pick(DOES[thing.shape], rng),
        "texture": thing.texture,
        "pattern": _pick(PATTERN[thing.texture], rng),
        "colour": thing.colour,
        "marks": thing.marks,
        "habitat": thing.habitat,
        **{
            f"{key}_kin": _pick(kin(thing.name, key), rng)
            for key in ("shape", "texture", "colour", "habitat")
        },
    }


def _noun_phrase(thing: Thing, rng: np.random.Generator) -> str:
    if thing.marks == "none" or rng.random() < 0.3:
        return f"a {thing.texture} {thing.colour} {thing.name}"
    if rng.random() < 0.5:
        return f"a {thing.name} with {thing.marks} {_pick(PATTERN[thing.texture], rng)}"
    return f"a {thing.colour} {thing.name} with {_pick(PARTS[thing.shape], rng)}"


def _with_articles(sentence: str) -> str:
    """Write "an" for "a" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", sentence)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
