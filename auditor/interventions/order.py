"""Interventions on the order in which a loader hands out its samples: ``order``, or ``order[2]`` for loader number 2.

They act on index lists as the loader asks its sampler for them. The sampler itself is asked as before, so the streams
stand at every step where they would have stood; only which list is handed out when, or which ids it holds, changes.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler

from auditor.artifact.digest import array_digest, digest_text
from auditor.errors import MemauditError
from auditor.interventions.intervention import Branch, Intervention, NotApplicable
from auditor.state.source import Reading, Source

_BY_POSITION = "what the data set draws for its samples, if anything, goes by position: auditor.KeyedDataset keys it"

Lists = list[Any]
"""Index lists, one a batch, as a sampler gave them."""


@dataclass(frozen=True)
class Handout:
    """One pass, when its loader is about to ask for index lists."""

    number: int
    """The pass."""
    loader: int | None
    first: int
    """The first step that closes after its begin."""
    begins: bool
    """Whether it begins now; False for a pass in progress, whose rest is handed out anew."""
    taken: int
    """Batches consumed of it so far."""
    sampler: Any
    """Its sampler where that is one of torch's, batched by torch's own BatchSampler; else None."""
    keyed: bool
    """Whether its data set's draws are keyed by the sample (:class:`auditor.KeyedDataset`)."""
    read: Callable[[], dict[str, Reading]]
    """Returns copies of the streams, and of watched samplers."""
    write: Callable[[dict[str, Reading]], None]
    """Sets those of them that are named."""


class OrderIntervention(Intervention):
    """An intervention on what a loader hands out.

    It changes nothing at once: where it is applied, the batches are still to come. ``place`` is where the steps it
    names lie in the loaders' passes, told from the recorded run (``order`` in cell.json, docs/study.md); its receipt is
    whole when the last of its batches was consumed.
    """

    place: Mapping[str, Any]

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._reason = ""
        self._keyed: bool | None = None

    def targets(self, branch: Branch) -> list[Source]:
        """Return nothing: what changes is still to come, and no source's state now."""
        return []

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Take note of whether there are batches to be handed out in another order; :meth:`arrange` does it.

        Raises
        ------
        NotApplicable
            If the recorded steps took none.
        """
        if "reason" in self.place:
            raise NotApplicable(self.place["reason"])

    def apply(self, branch: Branch) -> dict[str, Any]:
        """Return the receipt as it stands: nothing was handed out yet."""
        try:
            self.change([], branch)
        except NotApplicable as answer:
            self._reason = str(answer)
        return self.receipt({})

    def arrange(self, source: Iterator[Any], handout: Handout, branch: Branch) -> Iterator[Any]:
        """Return the index lists that the loader is to be given in place of ``source``; itself where not concerned."""
        if "reason" in self.place or not self._concerns(handout):
            return source
        self._keyed = handout.keyed
        return self._arranged(source, handout, branch)

    @abstractmethod
    def _concerns(self, handout: Handout) -> bool:
        """Say whether this pass is one to act on."""

    @abstractmethod
    def _arranged(self, source: Iterator[Any], handout: Handout, branch: Branch) -> Iterator[Any]:
        """Return the lists in place of ``source``; nothing is drawn from it before the loader asks.

        Asked again where another intervention has the rest of the pass drawn anew.
        """

    @abstractmethod
    def _handed_out(self, reached: Mapping[int, int]) -> tuple[Lists, Lists]:
        """Return the lists that were to come and those that came instead, of what was consumed."""

    @abstractmethod
    def _why_not(self) -> str:
        """Return the reason why nothing came otherwise than it was to come."""

    def closed(self, step: int, reached: Mapping[int, int]) -> None:
        """Check a step that has closed; ``reached`` holds how many batches were consumed, by pass."""

    def receipt(self, reached: Mapping[int, int]) -> dict[str, Any]:
        """Return the receipt of what was consumed so far.

        The digests are those of the sample ids, as in step events, and ``changed`` is the share of places with another
        id than was to come. ``draws`` among the arguments says whether each sample kept what its data set draws for it
        (``keyed``), or whether such draws, if there are any, went by position; the reason then says so in words.
        """
        arguments = dict(self.arguments)
        if self._keyed is not None:
            arguments["draws"] = "keyed" if self._keyed else "by position"
        planned, came = ([sample_ids(each) for each in lists] for lists in self._handed_out(reached))
        before, after = (np.asarray([*itertools.chain(*lists)], dtype=np.int64) for lists in (planned, came))
        applied = planned != came
        measured = bool(planned)
        return {
            "source": self.source,
            "do": self.action,
            "arguments": arguments,
            "tensors": None,
            "norm_before": None,
            "norm_after": None,
            "changed": float(np.mean(before != after)) if len(before) else 0.0,
            "digest_before": {self.source: digest_text(array_digest("ids", before))} if measured else {},
            "digest_after": {self.source: digest_text(array_digest("ids", after))} if measured else {},
            "applied": applied,
            "reason": (None if self._keyed else _BY_POSITION) if applied else self._reason or self._why_not(),
        }


class RearrangeWindow(OrderIntervention):
    """What the interventions on windows of steps share: the batches of a window are looked up and handed out anew.

    A sampler may draw as it goes. What looking ahead did to the streams is therefore undone, and done again list by
    list as the lists are handed out: at every step each stream stands where it would have stood.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._before: Lists = []
        self._after: Lists = []

    @abstractmethod
    def _permuted(self, lists: Lists, branch: Branch) -> Lists:
        """Return the window's lists in another order."""

    def _concerns(self, handout: Handout) -> bool:
        return bool(handout.number == self.place["pass"])

    @property
    def _span(self) -> tuple[int, int]:
        """The first and last batch concerned, counted from 1 in their pass."""
        windows = self.place["windows"]
        return min(first for first, _ in windows), max(last for _, last in windows)

    def _arranged(self, source: Iterator[Any], handout: Handout, branch: Branch) -> Iterator[Any]:
        first, last = self._span
        if handout.taken >= last:
            yield from source
            return
        if handout.taken >= first:
            raise MemauditError(
                f"pass {handout.number} is drawn anew after batch {handout.taken}, inside the window",
                where=f"{self.source}={self.action}, batches {first}-{last}",
                why="which batches were still to come is no longer known",
                next_step="re-key streams before the window or after it",
            )
        yield from itertools.islice(source, first - 1 - handout.taken)
        ahead = _Ahead(source, last - first + 1, handout)
        self._before = ahead.lists
        self._after = self._permuted(ahead.lists, branch)
        for place, indices in enumerate(self._after):
            ahead.move_on(place)
            yield indices
        yield from source

    def closed(self, step: int, reached: Mapping[int, int]) -> None:
        """Check that the windows lie at the batches where they lay in the recorded run.

        Raises
        ------
        MemauditError
            If a step at a window's border ended at another batch: other batches were moved than was asked for.
        """
        expected = dict(map(tuple, self.place.get("closes", ()))).get(step)
        found = reached.get(self.place.get("pass", 0), 0)
        if expected is not None and found != expected:
            raise MemauditError(
                f"step {step} ended at batch {found} of pass {self.place['pass']}, in the recorded run at {expected}",
                where=f"{self.source}={self.action}",
                why="the program's steps take another number of batches here: the window holds other steps than named",
                next_step="move windows of steps only where every unit's steps take the same batches of the pass",
            )

    def _handed_out(self, reached: Mapping[int, int]) -> tuple[Lists, Lists]:
        return self._before, self._after

    def _why_not(self) -> str:
        if not self._before:
            return f"batch {self._span[0]} of pass {self.place['pass']} was not handed out in this rollout"
        return self._same

    _same: str
    """The reason why handing out anew left everything where it was."""


class SwapWindows(RearrangeWindow):
    """Let the batches of two windows of steps change places; AB against BA is the case of two neighbours.

    The batches that were to feed the steps ``first`` feed those of ``second``, and the other way round; where the
    windows are not of one length, what lies between them moves up or down. Held fixed: the set of batches and their
    make-up, the steps and the learning-rate clock, the state at the fork, every stream; with
    :class:`auditor.KeyedDataset` also what each sample's augmentation draws (without it draws go by position).

    Source: the order-window swap of "Training Memory in Deep Neural Networks" (arXiv 2601.21624, abstract); TV(AB, BA)
    is a diagnostic of "Process-Tensor Tomography of SGD" (arXiv 2601.16563).
    """

    _same = "the two windows hold equal ids in equal order"

    def _permuted(self, lists: Lists, branch: Branch) -> Lists:
        origin = self._span[0]
        (a, b), (c, d) = sorted((first - origin, last - origin + 1) for first, last in self.place["windows"])
        return [*lists[:a], *lists[c:d], *lists[b:c], *lists[a:b], *lists[d:]]


class ReverseWindow(RearrangeWindow):
    """Hand out a window's batches last to first; held fixed is what a swap holds fixed.

    Source: the order permutations inside a window of "Training Memory in Deep Neural Networks" (arXiv 2601.21624,
    abstract).
    """

    _same = "the window's batches hold the same ids read from either end"

    def _permuted(self, lists: Lists, branch: Branch) -> Lists:
        return lists[::-1]


class ShuffleWindow(RearrangeWindow):
    """Hand out a window's batches in an order drawn for this unit; held fixed is what a swap holds fixed.

    The permutation comes from a stream of the intervention's own. Batches keep their make-up. Source: as for the swap.
    """

    _same = "the permutation that was drawn left the ids in their order"

    def _permuted(self, lists: Lists, branch: Branch) -> Lists:
        return [lists[place] for place in torch.randperm(len(lists), generator=branch.generator(self)).tolist()]


class OrderPolicy(OrderIntervention):
    """Draw the ids of each pass that begins after the fork by another policy.

    ``reshuffling``: a new permutation for each pass; ``replacement``: each id drawn anew from all; ``fixed``: one
    permutation, drawn once, in every pass; ``sequential``: the data set's order. With a SubsetRandomSampler "all" is
    its subset. The ids come from a stream of the intervention's own, uniformly. The rest of a pass in progress keeps
    its order. Held fixed: the number of passes and batches, each batch's size, every stream (the program's own sampler
    is asked as before, and its ids are put aside); not the multiset of ids.

    Source: torch/utils/data/sampler.py for the policies, whose ids RandomSampler and SequentialSampler draw alike.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._kind: str = self.arguments["kind"]
        self._generator: torch.Generator | None = None
        self._fixed: dict[int | None, list[int]] = {}
        self._passes: dict[int, tuple[Lists, Lists]] = {}
        self._drawn: dict[int, Iterator[int]] = {}
        """By pass: the ids to come."""

    def _concerns(self, handout: Handout) -> bool:
        if handout.loader not in self.place["loaders"] or not handout.begins:
            return False
        if self.at is not None and handout.first <= self.at:
            return False
        if handout.sampler is None:
            self._reason = (
                f"loader {handout.loader} has a sampler of the program's own: from what it draws is not known"
            )
            return False
        if self._kind in _policies_of(handout.sampler):
            self._reason = f"the order of loader {handout.loader} is {self._kind} already"
            return False
        return True

    def _arranged(self, source: Iterator[Any], handout: Handout, branch: Branch) -> Iterator[Any]:
        if self._generator is None:
            self._generator = branch.generator(self)
        before, after = self._passes.setdefault(handout.number, ([], []))
        ids = self._drawn.get(handout.number) or self._ids(handout, self._generator)
        # Where the rest of the pass is handed out anew, what workers had been given and nobody consumed comes first.
        waiting = [sample for indices in after[handout.taken :] for sample in sample_ids(indices)]
        ids = self._drawn[handout.number] = itertools.chain(waiting, ids)
        del before[handout.taken :], after[handout.taken :]
        for indices in source:
            instead = [next(ids) for _ in indices] if isinstance(indices, list) else next(ids)
            before.append(indices)
            after.append(instead)
            yield instead

    def _ids(self, handout: Handout, generator: torch.Generator) -> Iterator[int]:
        """Yield ids without end; nothing is drawn before it is needed."""
        population = _population(handout.sampler)
        count = len(population)
        if self._kind == "fixed" and handout.loader not in self._fixed:
            self._fixed[handout.loader] = torch.randperm(count, generator=generator).tolist()
        while True:
            match self._kind:
                case "sequential":
                    yield from population
                case "fixed":
                    yield from (population[place] for place in self._fixed[handout.loader])
                case "reshuffling":
                    yield from (population[place] for place in torch.randperm(count, generator=generator).tolist())
                case _:
                    yield population[int(torch.randint(count, (), generator=generator))]

    def _handed_out(self, reached: Mapping[int, int]) -> tuple[Lists, Lists]:
        planned: Lists = []
        came: Lists = []
        for number, (before, after) in self._passes.items():
            consumed = reached.get(number, 0)  # what workers fetch ahead and nobody consumes is no part of it
            planned += before[:consumed]
            came += after[:consumed]
        return planned, came

    def _why_not(self) -> str:
        if self._passes:
            return f"the ids that were drawn came in the order that was to come ({self._kind})"
        names = " and ".join(map(str, self.place["loaders"]))
        return f"no pass of loader {names} begins before the last horizon; the rest of one in progress keeps its order"


def sample_ids(indices: Any) -> list[int]:
    """Return the sample ids of one index list."""
    if isinstance(indices, list | tuple):
        return [int(index) for index in indices]
    return [int(index) for index in torch.as_tensor(indices).reshape(-1).tolist()]


class _Ahead:
    """Index lists drawn ahead of their time; the streams are as they were before."""

    def __init__(self, source: Iterator[Any], count: int, handout: Handout) -> None:
        self._handout = handout
        self.lists: Lists = []
        self._moves: list[dict[str, tuple[bytes, Reading]]] = []
        """By list: the streams that drawing it moved, each as a digest before and a state after."""
        begun = now = handout.read()
        marks = {name: reading.digest() for name, reading in now.items()}
        while len(self.lists) < count:
            try:
                indices = next(source)
            except StopIteration:
                raise MemauditError(
                    f"pass {handout.number} ends {count - len(self.lists)} batches before the window does",
                    where="order",
                    why="in the recorded run the window lies inside the pass",
                    next_step="replay the program and arguments that were recorded",
                ) from None
            # Noting the ids of an iterator would leave nothing to fetch.
            self.lists.append(list(indices) if isinstance(indices, Iterator) else indices)
            now = handout.read()
            later = {name: reading.digest() for name, reading in now.items()}
            self._moves.append(
                {name: (marks[name], now[name]) for name in now if name in marks and later[name] != marks[name]}
            )
            marks = later
        handout.write({name: begun[name] for name in set().union(*self._moves)})

    def move_on(self, place: int) -> None:
        """Move the streams as drawing list number ``place`` moves them.

        Raises
        ------
        MemauditError
            If somebody else has drawn from one of them since: the order looked up is not the one to come.
        """
        moves = self._moves[place]
        if not moves:
            return
        now = self._handout.read()
        for name, (mark, _) in moves.items():
            if now[name].digest() != mark:
                raise MemauditError(
                    f"the batches of pass {self._handout.number} cannot be looked up ahead",
                    where="order",
                    why=f"its sampler draws as it goes from {name.strip('/')}, and so does something else",
                    next_step="give the sampler a generator of its own",
                )
        self._handout.write({name: reading for name, (_, reading) in moves.items()})


def _policies_of(sampler: Any) -> frozenset[str]:
    """Return the policies that one of torch's samplers follows already."""
    if type(sampler) is SequentialSampler:
        return frozenset({"sequential", "fixed"})
    if type(sampler) is WeightedRandomSampler:
        return frozenset()
    replaces = type(sampler) is RandomSampler and sampler.replacement
    return frozenset({"replacement" if replaces else "reshuffling"})


def _population(sampler: Any) -> list[int] | range:
    """Return the ids that one of torch's samplers draws from, in the data set's order, each as often as it may come."""
    if type(sampler) is SubsetRandomSampler:
        return [int(index) for index in sampler.indices]
    if type(sampler) is WeightedRandomSampler:
        return range(len(sampler.weights))
    return range(len(sampler.data_source))
