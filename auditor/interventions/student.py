"""Averages and teachers follow a student: which trained module that is, tensor by tensor, and how they moved to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch, NotApplicable
from auditor.state.anchor import copied
from auditor.state.discovery import trained_modules
from auditor.state.places import PlacedSource
from auditor.state.source import Reading, Source
from auditor.state.survey import Place
from auditor.state.tensors import torch_digest

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Student:
    """The module that a follower follows.

    ``weights`` and ``buffers`` map paths in the follower's source to where the student's tensor stands. A buffer that
    the student has none for is in neither.
    """

    name: str
    weights: Mapping[str, Place]
    buffers: Mapping[str, Place]

    def read(self) -> Tensors:
        """Return copies of the student's tensors under the follower's paths."""
        places = {**self.weights, **self.buffers}
        return copied(Reading({path: place.value() for path, place in places.items()})).tensors


def student_of(source: Source, branch: Branch, named: str | None) -> Student:
    """Return the student of a follower.

    It is the watched trained module, or the module inside one, that has a parameter of the same name and shape for
    every weight of the follower; a prefix that all of the follower's names share (``module.``, ``shadow.``) does not
    count, and a list of tensors stands for the parameters in their order. ``named``, a watched name with the path of a
    module inside it, settles which it is: its parameters then need only come in the same order with the same shapes.

    Raises
    ------
    NotApplicable
        If there is none, or several.
    """
    tensors = source.read().tensors
    is_module = any(isinstance(tensor, nn.Parameter) for tensor in tensors.values())
    weights: Tensors = {
        path: tensor
        for path, tensor in tensors.items()
        if (isinstance(tensor, nn.Parameter) if is_module else tensor.is_floating_point())
    }
    if not weights:
        raise NotApplicable(f"{source.name} holds no averaged weights at this step")
    found: dict[tuple[int, ...], Student] = {}
    for name, module in _modules(branch, named):
        matches = [*_by_name(name, module, tensors, weights)]
        if named is not None or not is_module:
            matches += _by_order(name, module, tensors, weights, numbered=named is None)
        for match in matches:
            found.setdefault(tuple(id(place.value()) for place in match.weights.values()), match)
            if named is not None:
                break
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        names = ", ".join(sorted({each.name for each in found.values()}))
        raise NotApplicable(f"{source.name} may follow any of several modules ({names}); say which: student=…")
    looked_at = named or ", ".join(trained_modules(branch.watched.objects)) or "nothing"
    raise NotApplicable(
        f"no module of {looked_at} has the parameters of {source.name}, by name and shape"
        + (" or in order" if named else "; if one has them in order, say which: student=…")
    )


def _modules(branch: Branch, named: str | None) -> Iterator[tuple[str, nn.Module]]:
    trained = trained_modules(branch.watched.objects)
    if named is None:
        for keyword, module in trained.items():
            for path, inner in module.named_modules():
                yield (f"{keyword}.{path}" if path else keyword), inner
        return
    keyword, _, path = named.partition(".")
    inside = dict(trained[keyword].named_modules()) if keyword in trained else {}
    if path not in inside:
        raise NotApplicable(f"no trained module is watched as {named}; there are: {', '.join(trained) or 'none'}")
    yield named, inside[path]


def _places(module: nn.Module, kind: str) -> dict[str, Place]:
    """Return where the parameters or buffers of a module stand, under all their names."""
    return {
        (path := f"{name}.{key}" if name else key): Place(path, getattr(layer, kind), key)
        for name, layer in module.named_modules(remove_duplicate=False)
        for key, tensor in getattr(layer, kind).items()
        if tensor is not None
    }


def _by_name(name: str, module: nn.Module, tensors: Tensors, weights: Tensors) -> Iterator[Student]:
    parameters, buffers = _places(module, "_parameters"), _places(module, "_buffers")
    parts = next(iter(weights)).split(".")
    for depth in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:depth])
        pairs = {
            path: parameters.get(path.removeprefix(prefix)) or buffers.get(path.removeprefix(prefix))
            for path in weights
            if path.startswith(prefix)
        }
        fitting = {path: place for path, place in pairs.items() if place is not None and _fits(weights[path], place)}
        averaged = {path: place for path, place in fitting.items() if path.removeprefix(prefix) in parameters}
        if len(fitting) == len(weights) and averaged:
            more = {f"{prefix}{path}": place for path, place in buffers.items()}
            yield Student(name, averaged, _fitting(more, tensors, set(averaged)))


def _by_order(name: str, module: nn.Module, tensors: Tensors, weights: Tensors, *, numbered: bool) -> Iterator[Student]:
    """Yield the student whose parameters, or those of them that are trained, come in the order of the weights.

    ``numbered``: only for weights that are the items of one list.
    """
    last = [path.rpartition(".")[2] for path in weights]
    if numbered and last != [str(index) for index in range(len(last))]:
        return
    unique: dict[int, Place] = {}
    for place in _places(module, "_parameters").values():
        unique.setdefault(id(place.value()), place)
    for trained in (False, True):
        places = [place for place in unique.values() if place.value().requires_grad or not trained]
        if len(places) == len(weights) and all(map(_fits, weights.values(), places)):
            pairs = dict(zip(weights, places, strict=True))
            layers = {path.rpartition(".")[0]: place.path.rpartition(".")[0] for path, place in pairs.items()}
            more = {
                f"{mine}.{place.key}" if mine else place.key: place
                for mine, theirs in layers.items()
                for path, place in _places(module, "_buffers").items()
                if path.rpartition(".")[0] == theirs and not numbered
            }
            yield Student(name, pairs, _fitting(more, tensors, set(weights)))
            return


def _fits(tensor: torch.Tensor, place: Place) -> bool:
    return bool(place.value().shape == tensor.shape)


def _fitting(buffers: dict[str, Place], tensors: Tensors, weights: set[str]) -> dict[str, Place]:
    return {
        path: place
        for path, place in buffers.items()
        if path in tensors and path not in weights and _fits(tensors[path], place)
    }


def put(source: Source, tensors: Tensors) -> None:
    """Set some of a source's tensors, in place; numbers are rounded to the dtypes that stand there."""
    reading = copied(source.read())
    changed = {path: tensor.to(reading.tensors[path].dtype) for path, tensor in tensors.items()}
    source.restore(Reading({**reading.tensors, **changed}, reading.values))


def callers(source: Source) -> list[nn.Module]:
    """Return the modules whose call computes with a follower: itself and the one it wraps, or those it holds."""
    root = source.root if isinstance(source, PlacedSource) else None
    if not isinstance(root, nn.Module):
        held = vars(root).values() if hasattr(root, "__dict__") else ()
        return [each for each in held if isinstance(each, nn.Module)]
    inner = list(root.children())
    return [root, *inner] if len(inner) == 1 else [root]


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Return whether two tensors are equal in shape, dtype and every bit."""
    return torch_digest("", one) == torch_digest("", two)


@dataclass(frozen=True)
class Update:
    """How the program moved a follower since it was last looked at."""

    share: float
    """The share of its student that it took: one minus the decay."""
    student: Tensors
    """The student that it moved to, as it was then."""
    averaged: list[str]
    """The paths that took that share: every weight, and those buffers that the program averages as well."""
    copied: list[str]
    """The paths of buffers that the program took over from the student as they were."""


class Follower:
    """One follower from moment to moment: how it was left, and how its student was then."""

    def __init__(self, source: Source, student: Student) -> None:
        self.student = student
        self.left: Tensors = {}
        self._student_then: Tensors = {}
        self.leave(source)

    def leave(self, source: Source) -> None:
        """Note how both are now."""
        self.left = self.now(source)
        self._student_then = self.student.read()

    def now(self, source: Source) -> Tensors:
        """Return copies of the tensors that have one of the student beside them."""
        reading = source.read()
        paths = [*self.student.weights, *self.student.buffers]
        return copied(Reading({path: reading.tensors[path] for path in paths})).tensors

    def update(self, source: Source) -> Update | None:
        """Return how the program updated it since :meth:`leave`; None if no bit of its weights has changed.

        It may have moved to the student as it is now or as it was then: programs update before the optimizer's step
        or after it.

        Raises
        ------
        MemauditError
            If it moved elsewhere: what another decay would have made of it is then not known.
        """
        now, weights = self.now(source), list(self.student.weights)
        if all(same(now[path], self.left[path]) for path in weights):
            return None
        tried = []
        for student in (self.student.read(), self._student_then):
            found = share_taken(*({path: each[path] for path in weights} for each in (self.left, now, student)))
            if found is not None:
                tried.append((found[1], found[0], student))
        if not tried:
            raise MemauditError(
                f"{source.name} was not moved towards {self.student.name}",
                where=source.name,
                why="its weights are no weighted mean of what they were and the student's, before or after the step",
                next_step="use freeze, reset or resync, which need not know how it is updated",
            )
        _, share, student = min(tried, key=lambda each: each[0])
        taken = [path for path in self.student.buffers if same(now[path], student[path].to(now[path].dtype))]
        averaged = [
            path
            for path in self.student.buffers
            if path not in taken and now[path].is_floating_point() and self._took(share, path, now, student)
        ]
        return Update(share, student, [*weights, *averaged], taken)

    def _took(self, share: float, path: str, now: Tensors, student: Tensors) -> bool:
        if same(now[path], self.left[path]):
            return False
        found = share_taken(*({path: each[path]} for each in (self.left, now, student)))
        return found is not None and abs(found[0] - share) <= 1e-3


def share_taken(before: Tensors, now: Tensors, student: Tensors) -> tuple[float, float] | None:
    """Return w where now = before + w · (student - before), by least squares, and how far from that it lies.

    An exponential average with decay d takes the share w = 1 - d of its student. None where ``now`` lies off that line
    by more than a thousandth of the way moved and what rounding to the tensors' dtypes explains, or w is not in (0, 1].
    """
    start = {path: _real(tensor) for path, tensor in before.items()}
    moved = {path: _real(now[path]) - start[path] for path in start}
    gap = {path: _real(student[path]) - start[path] for path in start}
    along = sum(float((moved[path] * gap[path]).sum()) for path in before)
    length = sum(float(gap[path].square().sum()) for path in before)
    if length == 0.0:
        return None
    share = along / length
    off = sum(float((moved[path] - share * gap[path]).square().sum()) for path in before) ** 0.5
    way = sum(float(each.square().sum()) for each in moved.values()) ** 0.5
    rounding = sum((torch.finfo(before[path].dtype).eps * float(start[path].norm())) ** 2 for path in start) ** 0.5
    if not (0.0 < share <= 1.0 + 1e-3 and off <= 1e-3 * way + 2.0 * rounding):
        return None
    return min(share, 1.0), off


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()
