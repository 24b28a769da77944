"""The keys the verifier trusts: a file of the verifier's own, never of a submission.

A key carried by a submission proves nothing by being there.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from auditor.artifact import strict_json
from auditor.artifact.canonical import write_canonical
from auditor.errors import MemauditError
from auditor.evidence.home import home
from auditor.evidence.keys import keyid_of

FILE = "trusted-keys.json"
FORMAT = "trust-1"


@dataclass(frozen=True)
class TrustedKey:
    """A public key and the name the verifier gave it."""

    keyid: str
    name: str
    public_der: bytes


@dataclass(frozen=True)
class TrustStore:
    """An immutable list of trusted keys; ``add`` and ``remove`` return a changed copy, ``save`` writes it."""

    keys: tuple[TrustedKey, ...] = ()
    path: Path | None = None

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Return the trusted keys of ``path``, by default of the user; none if the file is not there.

        Raises
        ------
        MemauditError
            If the file is damaged: trust is never guessed.
        """
        path = path or home() / FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls((), path)
        except OSError as error:
            raise MemauditError(
                "the list of trusted keys cannot be read", where=str(path), why=error.strerror
            ) from None
        document = strict_json.parse(data, str(path))
        return cls(tuple(_keys(document, path)), path)

    def trusts(self, keyid: str) -> bool:
        """Say whether a key id, derived from the key itself, is trusted."""
        return any(key.keyid == keyid for key in self.keys)

    def name_of(self, keyid: str) -> str | None:
        """Return the verifier's name for a key, or None if it is not trusted."""
        return next((key.name for key in self.keys if key.keyid == keyid), None)

    def add(self, public_der: bytes, name: str) -> Self:
        """Return a copy that trusts ``public_der`` under ``name``; a key already there gets the new name."""
        keyid = keyid_of(public_der)
        kept = tuple(key for key in self.keys if key.keyid != keyid)
        return type(self)((*kept, TrustedKey(keyid, name, public_der)), self.path)

    def remove(self, keyid: str) -> Self:
        """Return a copy without the key whose id is, or begins with, ``keyid``.

        Raises
        ------
        MemauditError
            If no key, or more than one, fits.
        """
        fitting = [key for key in self.keys if key.keyid.startswith(keyid.lower())] if keyid else []
        if len(fitting) != 1:
            what = "no trusted key has this id" if not fitting else "several trusted keys begin like this"
            raise MemauditError(what, where=keyid, next_step="memaudit key list")
        return type(self)(tuple(key for key in self.keys if key is not fitting[0]), self.path)

    def save(self) -> None:
        """Write the list to where it was loaded from, atomically."""
        path = self.path or home() / FILE
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        entries = [
            {"keyid": key.keyid, "name": key.name, "public_key": base64.b64encode(key.public_der).decode("ascii")}
            for key in sorted(self.keys, key=lambda key: key.keyid)
        ]
        write_canonical(path, {"format": FORMAT, "keys": entries})


def _keys(document: Any, path: Path) -> list[TrustedKey]:
    damaged = MemauditError(
        "the list of trusted keys is damaged",
        where=str(path),
        next_step="remove the file, then memaudit key trust FILE",
    )
    if not isinstance(document, dict) or document.get("format") != FORMAT or not isinstance(document.get("keys"), list):
        raise damaged
    keys: list[TrustedKey] = []
    for entry in document["keys"]:
        try:
            public_der = base64.b64decode(entry["public_key"], validate=True)
            key = TrustedKey(str(entry["keyid"]), str(entry["name"]), public_der)
        except (KeyError, TypeError, binascii.Error):
            raise damaged from None
        if keyid_of(public_der) != key.keyid:
            raise damaged
        keys.append(key)
    return keys
