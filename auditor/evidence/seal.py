"""Seals: signatures over the chain so far, so that a run that was killed still proves its prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from auditor.artifact.canonical import canonical_bytes
from auditor.evidence.dsse import Signature, check_signature, pae, signature_fields
from auditor.evidence.keys import SigningKey

PAYLOAD_TYPE = "application/vnd.memaudit.seal"


def seal_fields(head: str, seq: int, key: SigningKey) -> dict[str, str]:
    """Return the members of a ``seal`` event.

    Parameters
    ----------
    head
        SHA-256 of the trace's last line, hexadecimal: the ``prev`` of the seal's own line.
    seq
        The number of the seal's own line.
    key
        Who signs.
    """
    return {"head": head, **signature_fields(key, _message(head, seq))}


def check_seal(event: Mapping[str, Any], where: str) -> Signature:
    """Return the checked signature of a ``seal`` event; its ``head`` must be compared with ``prev`` by the caller.

    Raises
    ------
    EnvelopeError
        If its members are malformed.
    """
    entry = {name: event.get(name) for name in ("keyid", "public_key", "sig")}
    return check_signature(entry, _message(str(event["head"]), int(event["seq"])), where)


def _message(head: str, seq: int) -> bytes:
    return pae(PAYLOAD_TYPE, canonical_bytes({"head": head, "seq": seq}))
