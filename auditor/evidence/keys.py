"""Signing and verifying with ECDSA P-256 and Ed25519; ``cryptography`` does the arithmetic.

A signature has one form: ECDSA is deterministic (RFC 6979), its ``s`` is the low one and its DER the shortest, so
that nobody can change a bit of a signed file and have it still verify.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from auditor.errors import MemauditError
from auditor.evidence.home import home

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order n of the group of P-256 (SEC 2, section 2.4.2)."""

DEFAULT_KEY = "signing-key.pem"
MAX_KEY_BYTES = 64 << 10

_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class KeyFileError(MemauditError):
    """A key file that cannot be used."""


@dataclass(frozen=True)
class SigningKey:
    """A private key and what is published of it."""

    _private: _Private

    @property
    def public_der(self) -> bytes:
        """The public key, DER SubjectPublicKeyInfo."""
        return _public_der(self._private.public_key())

    @property
    def keyid(self) -> str:
        """SHA-256 of ``public_der`` in hexadecimal."""
        return keyid_of(self.public_der)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``: the same bytes each time."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(data)
        try:
            signature = self._private.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:
            raise KeyFileError(
                "this OpenSSL cannot sign with deterministic nonces",
                why="RFC 6979 needs OpenSSL 3.2 or later",
                next_step="install cryptography from a wheel, or use an Ed25519 key",
            ) from None
        r, s = decode_dss_signature(signature)
        return encode_dss_signature(r, min(s, P256_ORDER - s))

    def private_pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 in PEM."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def public_pem(self) -> bytes:
        """The public key as SubjectPublicKeyInfo in PEM: what to hand to a reviewer."""
        return self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def keyid_of(public_der: bytes) -> str:
    """Return a key's id: SHA-256 of its DER SubjectPublicKeyInfo, in hexadecimal."""
    return hashlib.sha256(public_der).hexdigest()


def generate(algorithm: str = "ecdsa-p256") -> SigningKey:
    """Make a key; ``algorithm`` is ``ecdsa-p256`` or ``ed25519``."""
    if algorithm == "ed25519":
        return SigningKey(ed25519.Ed25519PrivateKey.generate())
    if algorithm == "ecdsa-p256":
        return SigningKey(ec.generate_private_key(ec.SECP256R1()))
    raise KeyFileError(f"unknown kind of key: {algorithm}", next_step="use ecdsa-p256 or ed25519")


def load_private(path: Path) -> SigningKey:
    """Return the key of a PEM (PKCS #8, SEC 1) or OpenSSH private key file.

    Raises
    ------
    KeyFileError
        If the file cannot be read, is protected by a passphrase, or holds another kind of key.
    """
    data = _read_key(path)
    load = (
        serialization.load_ssh_private_key
        if b"BEGIN OPENSSH PRIVATE KEY" in data
        else serialization.load_pem_private_key
    )
    try:
        private = load(data, password=None)
    except TypeError:
        raise KeyFileError(
            "the key is protected by a passphrase, which memaudit does not ask for",
            where=str(path),
            next_step="memaudit key new",
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        protected = "password" in str(error).lower() or "passphrase" in str(error).lower()
        what = "the key is protected by a passphrase" if protected else "not a private key memaudit can read"
        raise KeyFileError(what, where=str(path), next_step="memaudit key new") from None
    if isinstance(private, ed25519.Ed25519PrivateKey) or (
        isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1)
    ):
        return SigningKey(private)
    raise KeyFileError("neither an ECDSA P-256 nor an Ed25519 key", where=str(path), next_step="memaudit key new")


def load_public(path: Path) -> bytes:
    """Return the DER of a public key file (PEM or OpenSSH) or, for convenience, of a private one.

    Raises
    ------
    KeyFileError
        If the file cannot be read or holds another kind of key.
    """
    data = _read_key(path)
    if b"PRIVATE KEY" in data:
        return load_private(path).public_der
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            public = serialization.load_pem_public_key(data)
        elif data.startswith((b"ssh-", b"ecdsa-")):
            public = serialization.load_ssh_public_key(data)
        else:
            public = serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError("not a public key memaudit can read", where=str(path)) from None
    if not _is_supported(public):
        raise KeyFileError("neither an ECDSA P-256 nor an Ed25519 key", where=str(path))
    return _public_der(public)


def load_or_create_default() -> SigningKey:
    """Return the user's default key; made on first use, trusted here, its fingerprint printed to stderr."""
    path = home() / DEFAULT_KEY
    if path.exists():
        return load_private(path)
    try:
        key = create(path)
    except FileExistsError:
        # Another process made it between the look and the making; its key is the default.
        return load_private(path)
    print(f"memaudit: made a signing key, {path}\nmemaudit: its fingerprint is {key.keyid}", file=sys.stderr)  # noqa: T201
    return key


def create(path: Path, algorithm: str = "ecdsa-p256", *, name: str = "made here") -> SigningKey:
    """Make a key, write it to ``path`` (mode 0600) with its public half beside it (``.pub``), and trust it here.

    Raises
    ------
    FileExistsError
        If ``path`` exists: a private key is never overwritten.
    """
    from auditor.evidence.trust import TrustStore

    key = generate(algorithm)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written under another name and linked, so that nobody ever reads half a key under the real one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_pem())
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    path.with_name(path.name + ".pub").write_bytes(key.public_pem())
    TrustStore.load().add(key.public_der, name).save()
    return key


def verify_signature(public_der: bytes, signature: bytes, data: bytes) -> str | None:
    """Return None if ``signature`` is the signature of ``data`` in its one form, else the reason it is not."""
    try:
        public = serialization.load_der_public_key(public_der)
    except (ValueError, UnsupportedAlgorithm):
        return "the public key cannot be read"
    if not _is_supported(public):
        return "the key is neither ECDSA P-256 nor Ed25519"
    if _public_der(public) != public_der:
        return "the public key is not in its one DER form"
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, data)
        else:
            reason = _ecdsa_form(signature)
            if reason:
                return reason
            assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 - narrows the type for mypy
            public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return "the signature does not fit the content and the key"
    return None


def _ecdsa_form(signature: bytes) -> str | None:
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        return "the signature is not DER"
    if r <= 0 or s <= 0 or encode_dss_signature(r, s) != signature:
        return "the signature is not in its shortest DER form"
    if s > P256_ORDER // 2:
        return "the signature has the high s"
    return None


def _publish(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, FileExistsError) or path.exists():
            raise FileExistsError(str(path)) from None
        temporary.rename(path)  # a file system without hard links


def _is_supported(public: object) -> bool:
    return isinstance(public, ed25519.Ed25519PublicKey) or (
        isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
    )


def _public_der(public: object) -> bytes:
    assert isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)  # noqa: S101 - callers checked
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise KeyFileError("the key cannot be read", where=str(path), why=error.strerror) from None
    if len(data) > MAX_KEY_BYTES:
        raise KeyFileError("too large to be a key", where=str(path))
    return data
