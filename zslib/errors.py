"""The errors a user can cause. Everything else is a bug and keeps its traceback."""


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line: the file or key, what is wrong with it, what to do. Commands print it
    and exit with code 2; only `--debug` shows the traceback.
    """


class ImageError(InputError):
    """An image or a label map cannot be used; the message starts with its path."""


class ArtifactError(InputError):
    """An artifact is truncated, altered or of another version; the message names the stage to rerun."""
