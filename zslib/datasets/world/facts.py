"""The grammar of facts behind the built-in world (DESIGN §5): pure data, no numpy, no pictures.

A thing is a combination of attributes: what it is shaped like, what its coat looks like, its
colour, the colour of its marks, and where it lives. Every attribute value is carried by several
classes, so an unseen class is a new combination of values that seen classes carry. The pictures
(`scenes.py`) and the text (`text.py`) are both made from this one table.
"""

from dataclasses import asdict, dataclass
from functools import cache


@dataclass(frozen=True)
class Thing:
    """What is true of one thing class; `marks` is the colour of its pattern, or "none"."""

    name: str
    shape: str
    texture: str
    colour: str
    marks: str
    habitat: str


ATTRIBUTES = ("shape", "texture", "colour", "marks", "habitat")

_TABLE = """
zebra       | quadruped | striped | white  | black | grass
horse       | quadruped | plain   | brown  | none  | grass
tiger       | quadruped | striped | orange | black | forest
cow         | quadruped | patched | black  | white | grass
leopard     | quadruped | spotted | yellow | black | forest
polar bear  | quadruped | plain   | white  | none  | snow
giraffe     | quadruped | checked | brown  | white | grass
deer        | quadruped | spotted | brown  | white | forest
husky       | quadruped | patched | grey   | white | snow
camel       | quadruped | plain   | yellow | none  | sand
pigeon      | bird      | plain   | grey   | none  | road
penguin     | bird      | patched | black  | white | snow
parrot      | bird      | plain   | green  | none  | forest
owl         | bird      | spotted | white  | black | snow
hoopoe      | bird      | striped | orange | black | sand
starling    | bird      | spotted | black  | white | grass
kingfisher  | bird      | patched | blue   | white | water
goldfish    | fish      | plain   | orange | none  | water
clown fish  | fish      | striped | orange | white | water
trout       | fish      | spotted | green  | black | water
koi         | fish      | patched | red    | white | water
shark       | fish      | plain   | grey   | none  | water
angelfish   | fish      | striped | yellow | black | water
bus         | vehicle   | plain   | red    | none  | road
tram        | vehicle   | striped | blue   | white | road
taxi        | vehicle   | checked | yellow | black | road
police car  | vehicle   | checked | white  | black | road
fire truck  | vehicle   | striped | red    | white | road
jeep        | vehicle   | patched | green  | black | forest
camper      | vehicle   | spotted | blue   | white | grass
canoe       | boat      | checked | brown  | white | water
yacht       | boat      | plain   | white  | none  | water
ferry       | boat      | checked | grey   | black | water
gondola     | boat      | striped | black  | white | water
trawler     | boat      | patched | red    | white | water
ladybird    | shell     | spotted | red    | black | grass
beetle      | shell     | striped | yellow | black | grass
tortoise    | shell     | checked | green  | black | sand
crab        | shell     | patched | orange | white | sand
scarab      | shell     | plain   | blue   | none  | sand
"""

FACTS: dict[str, Thing] = {
    thing.name: thing
    for thing in (
        Thing(*(cell.strip() for cell in row.split("|"))) for row in _TABLE.strip().splitlines()
    )
}

THINGS: tuple[str, ...] = tuple(FACTS)
STUFF: tuple[str, ...] = ("sky", "forest", "grass", "sand", "snow", "water", "road")
CLASSES: tuple[str, ...] = STUFF + THINGS
CLASS_ID: dict[str, int] = {name: number for number, name in enumerate(CLASSES)}

STUFF_COLOUR = {
    "sky": "blue",
    "forest": "green",
    "grass": "green",
    "sand": "yellow",
    "snow": "white",
    "water": "blue",
    "road": "grey",
}

NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "forest": ("grass", "snow", "road", "water"),
    "grass": ("forest", "road", "water", "sand"),
    "sand": ("water", "grass", "road"),
    "snow": ("forest", "water", "road"),
    "water": ("sand", "grass", "forest", "snow"),
    "road": ("grass", "forest", "sand", "snow"),
}

_UNSEEN_PAIRS = (
    ("zebra", "tram"),
    ("leopard", "kingfisher"),
    ("clown fish", "tortoise"),
    ("polar bear", "trawler"),
    ("canoe", "hoopoe"),
)

_FOLDS = (
    "zebra camel owl starling koi tram jeep ferry tortoise goldfish",
    "horse leopard penguin parrot clown_fish shark taxi fire_truck yacht crab",
    "tiger polar_bear deer pigeon hoopoe trout bus camper gondola ladybird",
    "cow giraffe husky kingfisher angelfish police_car canoe trawler beetle scarab",
)


def _nested_splits() -> dict[str, tuple[str, ...]]:
    """u2 within u4 within ... u10: each split adds one pair to the one before."""
    splits: dict[str, tuple[str, ...]] = {}
    unseen: tuple[str, ...] = ()
    for pair in _UNSEEN_PAIRS:
        unseen += pair
        splits[f"u{len(unseen)}"] = unseen
    return splits


def _folds() -> dict[str, tuple[str, ...]]:
    return {
        f"fold{number}": tuple(name.replace("_", " ") for name in names.split())
        for number, names in enumerate(_FOLDS)
    }


UNSEEN: dict[str, tuple[str, ...]] = {**_nested_splits(), **_folds()}


@cache
def kin(name: str, attribute: str) -> tuple[str, ...]:
    """The other things that carry the same value of `attribute` as `name`, in class order."""
    value = getattr(FACTS[name], attribute)
    return tuple(
        other
        for other, thing in FACTS.items()
        if other != name and getattr(thing, attribute) == value
    )


def facts_table() -> dict[str, dict[str, str]]:
    """Class name -> its attributes, for every class in the order of the ids (facts.json)."""
    stuff = {name: {"kind": "stuff", "colour": STUFF_COLOUR[name]} for name in STUFF}
    things = {
        name: {"kind": "thing"} | {key: asdict(thing)[key] for key in ATTRIBUTES}
        for name, thing in FACTS.items()
    }
    return stuff | things
