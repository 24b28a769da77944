"""One file per concern of verification. Importing this package registers every rule of verification."""

from __future__ import annotations

from auditor.evidence.checks import (
    anchors,
    chain,
    cuts,
    envelope,
    environment,
    files,
    formats,
    order,
    seals,
    sequence,
    sources,
    study,
)

__all__ = [
    "anchors",
    "chain",
    "cuts",
    "envelope",
    "environment",
    "files",
    "formats",
    "order",
    "seals",
    "sequence",
    "sources",
    "study",
]
