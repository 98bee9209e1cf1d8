"""From the names of a released file to those of our networks; every tensor has to be accounted for.

Where a spec records names, tensors are found by name. Where it does not, they are paired in the order
in which layers were defined, and every pair must agree in shape: a file whose layers come in another
order, or that has one more or one less, is refused with the list of what does not fit. Shapes do not
tell the dilated branches of an ASPP apart, nor the four tensors of a batch norm: there the names must
speak for the order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from zslib.checkpoints.files import ReleasedFile
from zslib.errors import InputError

_LISTED = 4
"""Tensors named in a refusal."""

_NUMBER = re.compile(r"\d+")


def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all but batch norm's counts of batches: old files lack them, and nothing reads them."""
    return {name: tensor for name, tensor in tensors.items() if not is_counter(name)}


def is_counter(name: str) -> bool:
    """Whether a tensor is a batch norm's count of batches."""
    return name.endswith("num_batches_tracked")


def by_name(
    found: ReleasedFile,
    wanted: Mapping[str, Tensor],
    *,
    left_out: Sequence[str] = (),
    network: str = "",
) -> dict[str, Tensor]:
    """Return the wanted tensors by their names, which the file has too.

    Args:
        found: what the file holds.
        wanted: what it should hold.
        left_out: names that it may have beside them.
        network: whose tensors are wanted, for the message.

    Raises:
        InputError: one is missing, has another shape, or is neither wanted nor in `left_out`.
    """
    given, needed = without_counters(found.tensors), without_counters(wanted)
    faults = [f"'{name}' is missing" for name in needed if name not in given]
    faults += [
        f"'{name}' is {_shape(given[name])}, not {_shape(tensor)}"
        for name, tensor in needed.items()
        if name in given and given[name].shape != tensor.shape
    ]
    faults += [f"'{name}' is not known" for name in given if name not in {*needed, *left_out}]
    _refuse(found, faults, network)
    return _checked(found, {name: given[name] for name in needed})


def in_order(found: ReleasedFile, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the wanted tensors by their place: the first of the file is the first wanted, and so on.

    Raises:
        InputError: the file has more or fewer, a pair differs in shape, or names speak against it.
    """
    given, needed = list(without_counters(found.tensors).items()), without_counters(wanted)
    pairs = list(zip(needed.items(), given, strict=False))
    faults = [
        f"'{name}' is {_shape(tensor)} where {ours} wants {_shape(like)}"
        for (ours, like), (name, tensor) in pairs
        if tensor.shape != like.shape
    ]
    faults += [f"nothing is left for {ours}" for ours in list(needed)[len(pairs) :]]
    faults += [f"'{name}' {_shape(tensor)} is left over" for name, tensor in given[len(pairs) :]]
    names = [(ours, name) for (ours, _), (name, _) in pairs]
    faults = faults or [*_mixed(names), *_out_of_order(names), *_untold(names, needed)]
    _refuse(found, faults)
    return _checked(found, {ours: tensor for (ours, _), (_, tensor) in pairs})


def apart(found: ReleasedFile, names: Sequence[str]) -> tuple[ReleasedFile, ReleasedFile]:
    """Return the tensors of a part with known names, below whatever prefix it has, and the others.

    Raises:
        InputError: no prefix leads to all of the names.
    """
    needed = [name for name in names if not is_counter(name)]
    prefixes = [n.removesuffix(needed[-1]) for n in found.tensors if n.endswith(needed[-1])]
    best = min(prefixes, key=lambda p: sum(p + n not in found.tensors for n in needed), default="")
    _refuse(found, [f"'{best}{n}' is missing" for n in needed if best + n not in found.tensors])
    inside = {best + name for name in names}
    part = {n.removeprefix(best): t for n, t in found.tensors.items() if n in inside}
    rest = {n: t for n, t in found.tensors.items() if n not in inside}
    return ReleasedFile(found.path, part), ReleasedFile(found.path, rest)


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a network; only counters of batches may keep what they were."""
    missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    assert not unexpected
    assert all(is_counter(name) for name in missing), missing


def _mixed(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield where kinds differ (weight, running_mean), or a layer of ours were of several."""
    ours_of: dict[str, str] = {}
    theirs_of: dict[str, str] = {}
    for ours, name in pairs:
        our_layer, _, our_kind = ours.rpartition(".")
        layer, _, kind = name.rpartition(".")
        if kind != our_kind:
            yield f"'{name}' is where {ours} is wanted"
        if (
            theirs_of.setdefault(our_layer, layer) != layer
            or ours_of.setdefault(layer, our_layer) != our_layer
        ):
            yield f"'{name}' is of another layer than '{theirs_of[our_layer]}', which is {our_layer}"


def _out_of_order(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield names that are like one before them, but for smaller numbers."""
    before: dict[str, str] = {}
    for _, name in pairs:
        previous = before.setdefault(_pattern(name), name)
        if _numbers(name) < _numbers(previous):
            yield f"'{name}' comes after '{previous}'"
        before[_pattern(name)] = name


def _untold(pairs: Sequence[tuple[str, str]], shapes: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield layers of equal shape that we number, as the branches of an ASPP, and the file does not."""
    before: dict[tuple[str, torch.Size], tuple[str, str]] = {}
    for ours, name in pairs:
        if shapes[ours].dim() < 2:
            continue  # the convolution before a batch norm says which it is
        key = (_pattern(ours), shapes[ours].shape)
        first, previous = before.get(key, (ours, name))
        steps = zip(_numbers(first), _numbers(ours), strict=True)
        if sum(a != b for a, b in steps) == 1 and _pattern(name) != _pattern(previous):
            yield f"nothing tells whether '{previous}' or '{name}' is {ours}"
        before[key] = (ours, name)


def _pattern(name: str) -> str:
    """Return a name without its numbers."""
    return _NUMBER.sub("#", name)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(name)]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _checked(found: ReleasedFile, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Refuse numbers that no training leaves behind: order and shapes may agree by chance."""
    faults = [f"{n} is not finite" for n, t in tensors.items() if not torch.isfinite(t).all()]
    faults += [
        f"{name} would be negative"
        for name, tensor in tensors.items()
        if name.endswith("running_var") and (tensor < 0).any()
    ]
    _refuse(found, faults)
    return tensors


def _refuse(found: ReleasedFile, faults: Sequence[str], network: str = "") -> None:
    if faults:
        listed = "; ".join(faults[:_LISTED])
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        what = f"is no {network}: " if network else ""
        raise InputError(
            f"{found.path}: {what}{len(faults)} tensor(s) unaccounted for: {listed}{more}; "
            "is this the file, and params.yaml:backbone.model its network?"
        )
