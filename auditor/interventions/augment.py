"""Interventions on a watched augmentation policy, through the attributes that it offers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from auditor.interventions.intervention import Branch, Intervention, Lasting, NotApplicable
from auditor.state.held import follow, generators_in, holds
from auditor.state.places import PlacedSource
from auditor.state.source import Source
from auditor.state.stateful import ContainerSource, StatefulSource
from auditor.state.streams import Stream

SWITCHES = ("enabled", "active")
"""Attributes that say whether a policy does anything."""
PROBABILITIES = ("p", "probability")
"""Attributes that say how often it does."""
STAGES = ("stage", "strength", "magnitude", "epoch")
"""Attributes that say how strongly, the first of them that a policy has counting."""


class HeldPolicy(Lasting):
    """What holding an attribute of a policy shares: it is set where the intervention begins and after each later step.

    Also before each batch is drawn, as programs set a stage where an epoch begins. In a loop that draws its batches by
    hand, what the program sets between a step and its next draw is used once.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._meant: dict[str, tuple[str, Any]] = {}
        self._changed = False
        """Whether an attribute stood otherwise since the last step."""

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Set the attribute of each policy."""
        for source in sources:
            _refuse_workers(source, branch)
        self._meant = {source.name: self.setting(source.name, _attributes(source)) for source in sources}
        self._set(branch)
        self._changed = False

    @abstractmethod
    def setting(self, name: str, attributes: dict[str, Any]) -> tuple[str, Any]:
        """Return the attribute to be set and its value."""

    def before_batch(self, branch: Branch) -> None:
        """Set the attributes again."""
        self._set(branch)

    def after_step(self, branch: Branch) -> bool:
        """Set the attributes again; return whether one stood otherwise since the last step."""
        self._set(branch)
        changed, self._changed = self._changed, False
        return changed

    def _set(self, branch: Branch) -> None:
        for source in branch.named(self._meant):
            attribute, value = self._meant[source.name]
            attributes = _attributes(source)
            if attributes.get(attribute) != value:
                attributes[attribute] = value
                self._changed = True


class AugmentOff(HeldPolicy):
    """Turn a policy off from here on: ``enabled`` or ``active`` becomes false, or ``p`` or ``probability`` 0.

    Its stage, strength and generator are carried. A strength of 0 is not taken for off: what a policy then does is its
    own affair; ``augment=stage,value=0`` sets it. A policy that is off may draw less: streams that others draw from as
    well then part from the control's, and the study says so. Staged augmentation is a memory source of "Training Memory
    in Deep Neural Networks" (arXiv 2601.21624).
    """

    def setting(self, name: str, attributes: dict[str, Any]) -> tuple[str, Any]:
        """Return the switch, off, or the probability 0."""
        for attribute in SWITCHES:
            if isinstance(attributes.get(attribute), bool):
                return attribute, False
        for attribute in PROBABILITIES:
            value = attributes.get(attribute)
            if _is_number(value):
                return attribute, 0.0 if isinstance(value, float) else 0
        raise NotApplicable(
            f"{name} has none of {', '.join(SWITCHES)} (true or false), {', '.join(PROBABILITIES)} (a number): "
            "how to turn it off is not known"
        )


class AugmentStage(HeldPolicy):
    """Hold a policy at one stage from here on: the first of ``stage``, ``strength``, ``magnitude``, ``epoch`` it has.

    ``value`` is what the attribute is set to, a whole number where it holds one. What else the policy remembers and its
    generator are carried; the program's own later settings are undone. The dose of staged augmentation, a memory source
    of "Training Memory in Deep Neural Networks" (arXiv 2601.21624).
    """

    def setting(self, name: str, attributes: dict[str, Any]) -> tuple[str, Any]:
        """Return the attribute and the value in its type."""
        for attribute in STAGES:
            held, value = attributes.get(attribute), self.arguments["value"]
            if _is_number(held):
                if isinstance(held, int) and value != int(value):
                    raise NotApplicable(f"{attribute} of {name} is a whole number, {value} is none")
                return attribute, float(value) if isinstance(held, float) else int(value)
        raise NotApplicable(f"{name} has none of {', '.join(STAGES)} (a number): its stage is not known")


class AugmentRekey(Intervention):
    """Start a policy's own generators anew: other draws from here on, at the same stage.

    The seeds follow from the unit and the intervention. All other streams, and the order of the data, are held fixed:
    a policy that draws from the process's streams has nothing of its own to re-key, and one whose generator also draws
    the order or belongs to another object is refused.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Re-key the generators in each policy."""
        streams: dict[int, Stream] = {}
        for source in sources:
            _refuse_workers(source, branch)
            for stream in _own_streams(source, branch):
                streams[id(stream)] = stream
        description = repr(sorted(self.description.items()))
        for stream in streams.values():
            stream.rekey(f"{branch.key}/intervention {description}")


def _own_streams(source: Source, branch: Branch) -> list[Stream]:
    policy = source.root if isinstance(source, PlacedSource) else None
    held = generators_in(policy, set()) if policy is not None else []
    found = {id(generator) for each in held if (generator := follow(policy, each)) is not None}
    streams = [s for s in branch.streams() if id(getattr(s, "generator", None)) in found]
    if not streams:
        raise NotApplicable(
            f"{source.name} has no generator among its attributes: it draws from the process's streams, if at all"
        )
    holders = {each.holder for each in held}
    for stream in streams:
        for place in stream.places:
            if place.part in ("loader", "sampler", "batch_sampler") or place.holder not in {None, *holders}:
                raise NotApplicable(f"the generator of {source.name} is also that of {place.name}")
    return streams


def _attributes(source: Source) -> dict[str, Any]:
    """Return the live attributes of a policy, by name; its keys where it is a dict."""
    if isinstance(source, ContainerSource) and isinstance(source.container, dict):
        return source.container
    owner: Any = source.root if isinstance(source, PlacedSource) else None
    if isinstance(source, StatefulSource):
        owner = source.owner
    if not hasattr(owner, "__dict__"):
        raise NotApplicable(f"{source.name} is no object with attributes")
    attributes: dict[str, Any] = vars(owner)
    return attributes


def _refuse_workers(source: Source, branch: Branch) -> None:
    """Refuse a policy that is used in worker processes: they hold copies that nobody here can reach."""
    policy: Any = source.root if isinstance(source, PlacedSource) else None
    if isinstance(source, StatefulSource):
        policy = source.owner
    elif isinstance(source, ContainerSource):
        policy = source.container
    for number, loader in branch.loaders().items():
        if loader.num_workers and any(holds(part, policy) for part in (loader.dataset, loader.collate_fn)):
            raise NotApplicable(
                f"loader {number} loads its data in {loader.num_workers} worker processes, which hold copies of "
                f"{source.name} that nothing here can reach; record with num_workers=0"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
