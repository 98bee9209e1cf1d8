"""Where half precision is too coarse."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which products of float32 stay float32, also under autocast.

    bfloat16 tells scores near 100 apart in steps of a half. The `meta` device, on which memory is
    reckoned, knows no autocast.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
