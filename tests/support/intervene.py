"""Applying one intervention to live objects, with what holds for every receipt checked on the way."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from auditor.artifact.resources import schema
from auditor.interventions.intervention import Branch, Intervention
from auditor.interventions.registry import make
from auditor.state.census import Watched


def watching(**objects: Any) -> Watched:
    """Return these objects, watched."""
    watched = Watched()
    for keyword, thing in objects.items():
        watched.add(keyword, thing)
    return watched


def intervene(
    watched: Watched,
    source: str,
    action: str,
    branch: Branch | None = None,
    also: frozenset[str] = frozenset(),
    **arguments: Any,
) -> tuple[Intervention, dict[str, Any]]:
    """Apply an intervention; return it and its receipt, which follows the schema.

    What is not among the receipt's sources, or those ``also`` meant, is bit-equal afterwards; what is differs where the
    receipt says so.
    """
    intervention = make({"source": source, "do": action, **arguments})
    before = {each.name: each.read().digest() for each in watched.sources()}
    receipt = intervention.apply(branch or Branch(watched, "0/0"))
    after = {each.name: each.read().digest() for each in watched.sources()}
    Draft202012Validator(schema("cell-result")["properties"]["receipts"]).validate(
        [{**receipt, "at": 4, "steps_changed": None}]
    )
    for name in (before.keys() & after.keys()) - receipt["digest_before"].keys() - also:
        assert before[name] == after[name], name
    for name, digest in receipt["digest_before"].items():
        if name in before and name in after:
            assert (before[name] != after[name]) == (digest != receipt["digest_after"][name])
    if not receipt["applied"]:
        assert receipt["reason"]
        assert before == after
    return intervention, receipt
