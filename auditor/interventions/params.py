"""Interventions on the weights: ``params``."""

from __future__ import annotations

import torch

from auditor.interventions.intervention import Branch, Intervention, NotApplicable
from auditor.state.source import Source

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
"""The integers that the bits of each floating type are read as."""


class JitterParams(Intervention):
    """Move every floating parameter a little: the noise floor, and the control for butterfly effects.

    ``how=ulp`` (the default) moves each element by one unit in the last place, up or down as drawn: to the next number
    that its type can hold (IEEE 754-2019, 5.3.1, nextUp and nextDown). NaN and infinities stay; the largest numbers
    move inwards. ``how=gaussian`` adds normal noise of standard deviation ``sigma``, in the parameter's own unit,
    computed in float32 (float64 for float64 parameters) and rounded once.

    Complex parameters count as pairs. A tied parameter moves once, and everything that shares it sees it. Integers,
    buffers, averages, optimizer state and streams stay: directions and noise come from the intervention's own stream.

    An effect is to be read beside the effect of this one: the least that any change of the weights does after as many
    steps.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Move the parameters, in the order of the sources and their paths."""
        tensors = _each_once(sources)
        if not tensors:
            raise NotApplicable(f"{self.source} holds no floating parameters")
        names = {source.name for source in sources}
        ours = {_place(tensor) for tensor in tensors}
        for other in branch.watched.sources():
            shared = other.name not in names and any(_place(each) in ours for each in other.read().tensors.values())
            if shared:
                raise NotApplicable(f"{self.source} shares a parameter with {other.name}, which would move along")
        odd = sorted({str(tensor.dtype) for tensor in tensors if tensor.dtype not in _BITS})
        if odd:
            raise NotApplicable(f"the numbers next to one of {odd[0]} are not known here")
        generator = branch.generator(self)
        moved = False
        with torch.no_grad():
            for tensor in tensors:
                new = self._moved(tensor, generator)
                moved = moved or not torch.equal(_bits(new), _bits(tensor))
                tensor.copy_(new)
        if not moved:
            raise NotApplicable(f"sigma={self.arguments['sigma']:g} is too small to move any element of {self.source}")

    def _moved(self, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.arguments["how"] == "ulp":
            up = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.device, torch.bool)
            return one_ulp(tensor, up)
        wide = torch.float64 if tensor.dtype is torch.float64 else torch.float32
        noise = torch.randn(tensor.shape, generator=generator, dtype=wide).to(tensor.device)
        return tensor.to(wide).add(noise, alpha=self.arguments["sigma"]).to(tensor.dtype)


def one_ulp(tensor: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return the next larger number where ``up`` is true, else the next smaller; of the largest, the one inwards.

    ``tensor`` is of one of the types in IEEE format, ``up`` boolean of its shape. torch.nextafter takes no float16.
    """
    bits = _bits(tensor)
    lowest = torch.iinfo(bits.dtype).min
    # The bits are sign and magnitude; as magnitudes with a sign, neighbouring numbers are neighbouring integers.
    place = torch.where(bits < 0, lowest - bits, bits)
    largest = torch.full_like(place, int(_bits(torch.tensor(torch.finfo(tensor.dtype).max, dtype=tensor.dtype))))
    step = torch.where(up, 1, -1).to(bits.dtype)
    step = torch.where(place.abs() == largest, -place.sign(), step)
    place = torch.where(tensor.isfinite(), place + step, place)
    negative = (place < 0) | ((place == 0) & (bits < 0))  # the number above the smallest negative one is -0.0
    return torch.where(negative, lowest - place, place).view(tensor.dtype)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(_BITS[tensor.dtype])


def _each_once(sources: list[Source]) -> list[torch.Tensor]:
    """Return the floating tensors of the sources, complex ones as pairs of numbers, tied ones once."""
    found: dict[tuple[object, ...], torch.Tensor] = {}
    for source in sources:
        for tensor in source.read().tensors.values():
            real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            if real.is_floating_point() and real.numel():
                found.setdefault(_place(tensor), real)
    return list(found.values())


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return what is equal for two tensors that lie in the same place, in the same form."""
    if not tensor.numel() or tensor.layout is not torch.strided:
        return (id(tensor),)
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
