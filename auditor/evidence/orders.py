"""The data order of a run, loader by loader: what its sampler promised, and what the passes show."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from auditor.evidence.order_policy import recognise
from auditor.evidence.run_view import RunView


def orders(view: RunView) -> list[dict[str, Any]]:
    """Return one entry a loader: ``{loader, sampler, declared, passes, seen, why, notes}``.

    ``declared`` is the kind in the pass events, ``seen`` the policy that the order files show; None where no pass
    kept its ids.
    """
    walked: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(view.passes(), key=lambda event: event["pass"]):
        if event["loader"] is not None:
            walked[event["loader"]].append(event)
    return [_entry(view, loader, events) for loader, events in sorted(walked.items())]


def _entry(view: RunView, loader: int, events: list[dict[str, Any]]) -> dict[str, Any]:
    policy = next((event["policy"] for event in events if event["policy"] is not None), None) or {}
    kept = [event for event in events if event["file"] is not None]
    seen = recognise(
        (ids for event in kept if (ids := view.order(event["pass"])) is not None),
        complete=[event["complete"] for event in kept],
        length=policy.get("length"),
        dropped=(policy.get("batch_size") or 1) - 1 if policy.get("drop_last") else 0,
        shuffled=policy.get("kind") == "shuffled",
    )
    return {
        "loader": loader,
        "sampler": policy.get("sampler"),
        "declared": policy.get("kind"),
        "passes": len(events),
        "seen": seen.word if kept else None,
        "why": seen.why if kept else "no pass kept its sample ids",
        "notes": list(seen.notes) if kept else [],
    }
