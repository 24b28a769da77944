"""DSSE envelopes (DSSE v1, protocol.md), in the one form memaudit writes them.

Strict where the protocol is loose: base64 has one form, members are exactly those named, a key signs once, and each
signature carries its public key, from which its key id must follow.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditor.artifact import strict_json
from auditor.artifact.canonical import canonical_bytes
from auditor.errors import MemauditError
from auditor.evidence.keys import SigningKey, keyid_of, verify_signature

IN_TOTO = "application/vnd.in-toto+json"
MAX_SIGNATURES = 64


class EnvelopeError(MemauditError):
    """Bytes that are not an envelope as memaudit writes it."""


@dataclass(frozen=True)
class Signature:
    """One signature of an envelope, checked."""

    keyid: str
    """As derived from the public key, whatever the envelope says."""
    public_der: bytes
    problem: str | None
    """None if it verifies, else the reason it does not."""


@dataclass(frozen=True)
class Envelope:
    """An envelope whose form is right; its signatures say for themselves whether they verify."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload_type: str, payload: bytes, keys: Sequence[SigningKey]) -> bytes:
    """Return the bytes of a signed envelope: canonical JSON and a newline.

    Raises
    ------
    EnvelopeError
        If no key is given, or one twice.
    """
    if not keys or len({key.keyid for key in keys}) != len(keys):
        raise EnvelopeError("an envelope needs at least one key, and each key once")
    message = pae(payload_type, payload)
    signatures = [signature_fields(key, message) for key in sorted(keys, key=lambda key: key.keyid)]
    envelope = {"payload": encode_base64(payload), "payloadType": payload_type, "signatures": signatures}
    return canonical_bytes(envelope) + b"\n"


def signature_fields(key: SigningKey, message: bytes) -> dict[str, str]:
    """Return the members of one signature over an encoded message."""
    return {
        "keyid": key.keyid,
        "public_key": encode_base64(key.public_der),
        "sig": encode_base64(key.sign(message)),
    }


def verify_envelope(data: bytes, where: str, *, payload_type: str = IN_TOTO) -> Envelope:
    """Return an envelope with each of its signatures checked.

    The payload must be parsed from the result, not from the file again. Whether a signer is trusted is the
    caller's question.

    Raises
    ------
    EnvelopeError
        If the bytes are not an envelope in its one form, or are of another payload type.
    """
    try:
        document = strict_json.parse_canonical(data, where)
    except strict_json.StrictJsonError as error:
        raise EnvelopeError(error.what, where=where, why=error.why) from None
    if not isinstance(document, dict) or set(document) != {"payload", "payloadType", "signatures"}:
        raise EnvelopeError("an envelope has exactly payload, payloadType and signatures", where=where)
    if document["payloadType"] != payload_type:
        raise EnvelopeError(f"the payload type is not {payload_type}", where=f"{where}#/payloadType")
    payload = decode_base64(document["payload"], f"{where}#/payload")
    entries = document["signatures"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_SIGNATURES:
        raise EnvelopeError(f"between 1 and {MAX_SIGNATURES} signatures are needed", where=f"{where}#/signatures")
    message = pae(payload_type, payload)
    signatures = tuple(
        check_signature(entry, message, f"{where}#/signatures/{index}") for index, entry in enumerate(entries)
    )
    if len({signature.public_der for signature in signatures}) != len(signatures):
        raise EnvelopeError("one key signs twice", where=f"{where}#/signatures")
    return Envelope(payload, payload_type, signatures)


def check_signature(entry: Any, message: bytes, where: str) -> Signature:
    """Return one signature's members, checked against the encoded message.

    Raises
    ------
    EnvelopeError
        If the members are not those of a signature.
    """
    if not isinstance(entry, dict) or set(entry) != {"keyid", "public_key", "sig"}:
        raise EnvelopeError("a signature has exactly keyid, public_key and sig", where=where)
    public_der = decode_base64(entry["public_key"], f"{where}/public_key")
    signature = decode_base64(entry["sig"], f"{where}/sig")
    keyid = keyid_of(public_der)
    if entry["keyid"] != keyid:
        return Signature(keyid, public_der, "the key id does not follow from the public key")
    return Signature(keyid, public_der, verify_signature(public_der, signature, message))


def encode_base64(data: bytes) -> str:
    """Return standard, padded base64."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: Any, where: str) -> bytes:
    """Undo :func:`encode_base64`; any other spelling of the same bytes is refused.

    Raises
    ------
    EnvelopeError
        If ``text`` is not the one way to write some bytes.
    """
    try:
        if isinstance(text, str):
            data = base64.b64decode(text.encode("ascii"), validate=True)
            if encode_base64(data) == text:
                return data
    except (UnicodeEncodeError, binascii.Error):
        raise EnvelopeError("not strict base64", where=where) from None
    raise EnvelopeError("not strict base64", where=where)
