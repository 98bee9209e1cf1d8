"""The only code that writes or opens artifacts."""

from zslib.artifacts.publish import publish

__all__ = ["publish"]
