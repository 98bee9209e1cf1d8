"""What the authors released, as artifacts of ours: `zslib import-checkpoint`."""

from zslib.checkpoints.official import FOLDERS, IMPORTS
from zslib.checkpoints.request import Request

__all__ = ["FOLDERS", "IMPORTS", "Request"]
