"""``memaudit key``: signing keys, and the keys whose signatures count here."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.cli.output import format_options, write, write_json
from auditor.errors import MemauditError

FORMAT = "keys-1"


@click.group("key")
def command() -> None:
    """Make, trust, list and remove signing keys.

    \b
    Examples:
      memaudit key new
      memaudit key trust author.pub --name "A. Author"
      memaudit key list
      memaudit key remove 3f9c2a
    """


@command.command("new")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it; the default key's place if left out.")
@click.option("--algorithm", type=click.Choice(["ecdsa-p256", "ed25519"]), default="ecdsa-p256", show_default=True)
def new(out: Path | None, algorithm: str) -> None:
    """Make a key. It is trusted here; its public half lies beside it (.pub).

    \b
    Examples:
      memaudit key new
      memaudit key new --out keys/lab.pem --algorithm ed25519
    """
    from auditor.evidence.home import home
    from auditor.evidence.keys import DEFAULT_KEY, create

    path = out or home() / DEFAULT_KEY
    try:
        key = create(path, algorithm)
    except FileExistsError:
        raise MemauditError(
            "there is a key already, and a private key is never overwritten",
            where=str(path),
            next_step="memaudit key new --out ANOTHER",
        ) from None
    write(f"{key.keyid}\nnext: give {path}.pub to whoever checks your runs")


@command.command("trust")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="What to call its owner; the file's name if left out.")
def trust(file: Path, name: str | None) -> None:
    """Trust the public key in FILE (PEM, DER or OpenSSH).

    \b
    Examples:
      memaudit key trust author.pub --name "A. Author"
    """
    from auditor.evidence.keys import keyid_of, load_public
    from auditor.evidence.trust import TrustStore

    public = load_public(file)
    TrustStore.load().add(public, name or file.stem).save()
    write(f"{keyid_of(public)}\ncompare this fingerprint with its owner over another channel")


@command.command("list")
@format_options
def list_(output: str) -> None:
    """List the keys that are trusted here.

    \b
    Examples:
      memaudit key list
    """
    from auditor.evidence.trust import TrustStore
    from auditor.findings.formats.text import escape

    keys = TrustStore.load().keys
    if output == "json":
        write_json({"format": FORMAT, "keys": [{"keyid": key.keyid, "name": key.name} for key in keys]})
        return
    write("\n".join(f"{key.keyid}  {escape(key.name)}" for key in keys) or "no key is trusted here")


@command.command("remove")
@click.argument("keyid")
def remove(keyid: str) -> None:
    """Stop trusting the key whose id is, or begins with, KEYID. The key's own files stay.

    \b
    Examples:
      memaudit key remove 3f9c2a
    """
    from auditor.evidence.trust import TrustStore

    TrustStore.load().remove(keyid).save()
    write("removed")
