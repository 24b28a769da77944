"""Which modules of a network draw random numbers while it trains, and on which device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def drawing_modules(modules: Iterable[nn.Module]) -> dict[str, list[str]]:
    """Return what draws, in words (``dropout in 3 modules``), by device (``cpu``, ``cuda:0``).

    A module draws on the device of its input, which is taken to be that of the network's parameters, all of them where
    there are several. Draws that a ``forward`` makes by calling a function (``functional.dropout``) do not show.
    """
    found: dict[str, Counter[str]] = {}
    seen: set[int] = set()
    for module in modules:
        devices = {str(parameter.device) for parameter in module.parameters()} or {"cpu"}
        for layer in module.modules():
            what = _draws(layer)
            if what is not None and id(layer) not in seen:
                seen.add(id(layer))
                for device in devices:
                    found.setdefault(device, Counter())[what] += 1
    return {
        device: [f"{what} in {count} module{'s' if count > 1 else ''}" for what, count in counts.items()]
        for device, counts in found.items()
    }


def _draws(layer: nn.Module) -> str | None:
    """Return what a module itself draws for, if anything: not what modules inside it do."""
    if isinstance(layer, _DropoutNd):
        return "dropout" if layer.p > 0 else None
    if isinstance(layer, nn.MultiheadAttention):
        return "attention dropout" if layer.dropout > 0 else None
    if isinstance(layer, nn.RNNBase):
        # torch applies it between layers only.
        return f"{layer.mode} dropout" if layer.dropout > 0 and layer.num_layers > 1 else None
    if isinstance(layer, nn.RReLU):
        return "RReLU"
    if isinstance(layer, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return "fractional pooling"
    return None
