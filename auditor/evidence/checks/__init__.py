"""One file per concern of verification. Importing this package registers every rule of verification."""

from __future__ import annotations

from auditor.evidence.checks import (
    anchors,
    chain,
    envelope,
    environment,
    files,
    formats,
    order,
    seals,
    study,
)

__all__ = ["anchors", "chain", "envelope", "environment", "files", "formats", "order", "seals", "study"]
