import base64
import json
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.run_directory import scan
from auditor.errors import MemauditError
from auditor.evidence import manifest
from auditor.evidence.dsse import IN_TOTO, EnvelopeError, pae, sign_envelope, verify_envelope
from auditor.evidence.keys import (
    P256_ORDER,
    KeyFileError,
    SigningKey,
    create,
    generate,
    load_or_create_default,
    load_private,
    load_public,
    verify_signature,
)
from auditor.evidence.seal import check_seal, seal_fields
from auditor.evidence.trust import TrustStore


def test_the_encoding_is_that_of_the_protocol() -> None:
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ed25519"])
def test_signatures_are_the_same_each_time_and_hold(algorithm: str) -> None:
    key = generate(algorithm)
    assert key.sign(b"x") == key.sign(b"x")
    assert verify_signature(key.public_der, key.sign(b"x"), b"x") is None
    assert verify_signature(key.public_der, key.sign(b"x"), b"y") is not None


def test_an_independent_implementation_accepts_the_envelope() -> None:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    key = generate()
    document = json.loads(sign_envelope(IN_TOTO, b"{}", [key]))
    envelope = Envelope.from_dict(
        document | {"signatures": [{"keyid": key.keyid, "sig": document["signatures"][0]["sig"]}]}
    )
    public = SSlibKey(key.keyid, "ecdsa", "ecdsa-sha2-nistp256", {"public": key.public_pem().decode()})
    assert envelope.verify([public], 1)


def test_the_high_s_is_refused() -> None:
    key = generate()
    r, s = decode_dss_signature(key.sign(b"x"))
    assert (
        verify_signature(key.public_der, encode_dss_signature(r, P256_ORDER - s), b"x")
        == "the signature has the high s"
    )


def envelope(**changes: object) -> bytes:
    document = json.loads(sign_envelope(IN_TOTO, b"{}", [generate()]))
    return canonical_bytes(document | changes) + b"\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"payloadType": "text/plain"},
        {"payload": "e30"},
        {"payload": "e31="},
        {"payload": "e3 0="},
        {"extra": 1},
        {"signatures": []},
    ],
)
def test_other_envelopes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(EnvelopeError):
        verify_envelope(envelope(**changes), "m")


def test_one_key_twice_is_refused() -> None:
    document = json.loads(sign_envelope(IN_TOTO, b"{}", [generate()]))
    document["signatures"] *= 2
    with pytest.raises(EnvelopeError, match="twice"):
        verify_envelope(canonical_bytes(document) + b"\n", "m")


def test_a_borrowed_key_id_does_not_hold() -> None:
    document = json.loads(sign_envelope(IN_TOTO, b"{}", [generate()]))
    other = generate()
    document["signatures"][0]["keyid"] = other.keyid
    (signature,) = verify_envelope(canonical_bytes(document) + b"\n", "m").signatures
    assert signature.problem is not None
    assert signature.keyid != other.keyid


def test_keys_are_private_and_made_once(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = load_or_create_default()
    captured = capsys.readouterr()
    assert key.keyid in captured.err
    assert captured.out == ""
    path = own_home / "signing-key.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_default().keyid == key.keyid
    assert capsys.readouterr().err == ""
    assert TrustStore.load().trusts(key.keyid)
    assert load_public(own_home / "signing-key.pem.pub") == key.public_der
    with pytest.raises(FileExistsError):
        create(path)


@pytest.mark.parametrize("private", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()])
def test_openssh_keys_are_accepted(tmp_path: Path, private: ec.EllipticCurvePrivateKey) -> None:
    path = tmp_path / "id"
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "id.pub").write_bytes(public)
    assert load_private(path).public_der == load_public(tmp_path / "id.pub")


def test_other_and_protected_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    pkcs8 = serialization.PrivateFormat.PKCS8
    encryption = serialization.BestAvailableEncryption(b"secret")
    for data in (
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()
        ),
        ec.generate_private_key(ec.SECP256R1()).private_bytes(serialization.Encoding.PEM, pkcs8, encryption),
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()
        ),
        b"nonsense",
    ):
        path.write_bytes(data)
        with pytest.raises(KeyFileError):
            load_private(path)


def test_seals_cover_head_and_number() -> None:
    key = generate()
    event = {**seal_fields("a" * 64, 7, key), "seq": 7}
    assert check_seal(event, "x").problem is None
    assert check_seal({**event, "seq": 8}, "x").problem is not None
    assert check_seal({**event, "head": "b" * 64}, "x").problem is not None


def test_the_manifest_lists_every_file_and_is_written_once(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"1")
    (tmp_path / ".dot").write_bytes(b"")
    (tmp_path / "hollow/inner").mkdir(parents=True)
    manifest.write_manifest(tmp_path, manifest.STUDY, {"format": "study-1", "big": str(2**63 - 1)}, key)
    read = manifest.read(tmp_path)
    assert list(read.subjects) == [".dot", "a/b"]
    assert read.predicate["big"] == "9223372036854775807"
    assert set(scan(tmp_path).files) == {".dot", "a/b", "manifest.json"}
    with pytest.raises(MemauditError):
        manifest.write_manifest(tmp_path, manifest.STUDY, {}, key)


def test_a_directory_with_a_link_is_not_signed(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(MemauditError, match="symbolic link"):
        manifest.write_manifest(tmp_path, manifest.RUN, {}, key)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "manifest.json"])
def test_a_manifest_that_climbs_is_refused(name: str, key: SigningKey) -> None:
    statement = {
        "_type": manifest.STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": "0" * 64}}],
        "predicateType": manifest.RUN,
        "predicate": {},
    }
    with pytest.raises(MemauditError, match="leaves"):
        manifest.parse(sign_envelope(IN_TOTO, canonical_bytes(statement), [key]))


def test_trust_is_kept_and_a_damaged_list_is_not_guessed(own_home: Path, key: SigningKey) -> None:
    TrustStore.load().add(key.public_der, "a").add(key.public_der, "b").save()
    assert [entry.name for entry in TrustStore.load().keys] == ["b"]
    TrustStore.load().remove(key.keyid[:8]).save()
    assert TrustStore.load().keys == ()
    entry = {"keyid": "0" * 64, "name": "x", "public_key": base64.b64encode(key.public_der).decode()}
    (own_home / "trusted-keys.json").write_text(json.dumps({"format": "trust-1", "keys": [entry]}))
    with pytest.raises(MemauditError, match="damaged"):
        TrustStore.load()


def test_the_chain_can_be_checked_with_sha256sum_alone(run: Path) -> None:
    lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    shown = subprocess.run(["sha256sum"], input=lines[0], capture_output=True, check=True)
    assert json.loads(lines[1])["prev"] == shown.stdout.split()[0].decode()
