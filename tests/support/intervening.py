"""What tests of interventions share: objects watched, an intervention applied, a receipt that fits its schema."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.resources import schema
from auditor.interventions.intervention import Branch, Intervention, Lasting
from auditor.interventions.registry import make
from auditor.state.anchor import copied
from auditor.state.census import Watched
from auditor.state.source import Reading

RECEIPTS = Draft202012Validator(schema("cell-result")["properties"]["receipts"])


class Scene:
    """Watched objects and the branch that interventions act in."""

    def __init__(self, **objects: Any) -> None:
        self.watched = Watched()
        for name, thing in objects.items():
            self.watched.add(name, thing)
        self.branch = Branch(self.watched, "0/0", streams=self.watched.streams)

    def begin(self, source: str, action: str, **arguments: Any) -> tuple[Intervention, dict[str, Any]]:
        intervention = make({"source": source, "do": action, **arguments})
        before = self.digests()
        receipt = intervention.apply(self.branch)
        RECEIPTS.validate([{**receipt, "at": 4, "steps_changed": None}])
        canonical_bytes(receipt)
        if receipt["digest_before"] == receipt["digest_after"]:
            assert self.digests() == before, "what was not changed is as it was"
        return intervention, receipt

    def apply(self, source: str, action: str, **arguments: Any) -> dict[str, Any]:
        return self.begin(source, action, **arguments)[1]

    def last(self, source: str, action: str, **arguments: Any) -> Lasting:
        """Begin a lasting intervention that applies."""
        intervention, receipt = self.begin(source, action, **arguments)
        assert isinstance(intervention, Lasting)
        assert receipt["applied"], receipt["reason"]
        return intervention

    def refused(self, source: str, action: str, **arguments: Any) -> str:
        """Return why an intervention was not applied; nothing was changed."""
        before = self.digests()
        receipt = self.apply(source, action, **arguments)
        assert receipt["applied"] is False
        assert self.digests() == before
        return str(receipt["reason"])

    def read(self, source: str) -> Reading:
        return copied(*(each.read() for each in self.watched.sources() if each.name == source))

    def digests(self) -> dict[str, bytes]:
        return {source.name: source.read().digest() for source in self.watched.sources()}
