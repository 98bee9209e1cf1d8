"""The errors a user can cause. Everything else is a bug and keeps its traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Something the user gave is wrong.

    The message is one line: the file or key, what is wrong with it, what to do. Commands end as
    `one_line_errors` says.
    """


class ImageError(InputError):
    """An image or a label map cannot be used; the message starts with its path."""


class ArtifactError(InputError):
    """An artifact is truncated, altered or of another version; the message names the stage to rerun."""


@contextmanager
def one_line_errors(*, debug: bool) -> Iterator[None]:
    """End the process with an InputError's one line on stderr and exit code 2.

    With `debug` the error goes through, and keeps its traceback.
    """
    try:
        yield
    except InputError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
