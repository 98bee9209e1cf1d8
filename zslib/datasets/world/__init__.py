"""The built-in world (DESIGN §5): a zero-shot problem drawn from a grammar of facts."""

from zslib.datasets.world.facts import CLASSES, STUFF, THINGS, UNSEEN
from zslib.datasets.world.folder import draw_world
from zslib.datasets.world.sheet import contact_sheet

__all__ = ["CLASSES", "STUFF", "THINGS", "UNSEEN", "contact_sheet", "draw_world"]
