"""The manifest's envelope: its form, its signatures, and whether anybody known here signed it."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.run_directory import MANIFEST
from auditor.evidence import manifest as manifests
from auditor.evidence.examination import Examination, SchemaError, check_schema
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield what is wrong with the manifest, and who signed it."""
    if examined.manifest_error is not None:
        error = examined.manifest_error
        why = f" ({error.why})" if error.why else ""
        yield MALFORMED.finding(
            _inside(error.where), f"the manifest is not as memaudit writes it: {error.what}{why}", hint=_ASK_AGAIN
        )
        return
    manifest = examined.manifest
    if manifest is None:
        return
    if manifest.predicate_type not in (manifests.RUN, manifests.STUDY):
        yield UNKNOWN_KIND.finding(
            f"{MANIFEST}#/payload",
            "the manifest speaks of something this version does not know",
            hint="use a newer memaudit, or ask what made this directory",
            expected=f"{manifests.RUN} or {manifests.STUDY}",
            found=manifest.predicate_type,
        )
    else:
        try:
            check_schema(manifest.statement, "manifest", f"{MANIFEST}#/payload")
        except SchemaError as problem:
            yield MALFORMED.finding(f"{MANIFEST}#/payload", f"the signed statement {problem.what}", hint=_ASK_AGAIN)
    yield from _signatures(examined)


def _signatures(examined: Examination) -> Iterator[Finding | Claim]:
    for index, signer in enumerate(examined.signers):
        if signer.problem is not None:
            yield BAD_SIGNATURE.finding(
                f"{MANIFEST}#/signatures/{index}",
                f"a signature does not hold: {signer.problem}",
                hint=_ASK_AGAIN,
                found=signer.keyid,
            )
    if not examined.has_good_signature:
        return
    good = [signer.keyid for signer in examined.signers if signer.problem is None]
    known = [keyid for keyid in good if examined.trusted.trusts(keyid)]
    if known:
        names = ", ".join(f"{examined.trusted.name_of(keyid)} ({keyid[:16]}…)" for keyid in known)
        yield Claim("the manifest is signed by a key you trust", Evidence.ATTESTED, MANIFEST, names)
    else:
        yield UNTRUSTED.finding(
            f"{MANIFEST}#/signatures",
            "nobody you trust signed this manifest",
            hint=f"check the fingerprint with its owner, then: memaudit verify {examined.label} --key PUBLIC_KEY",
            found=good[0],
        )
        yield Claim(
            "the manifest is signed by somebody",
            Evidence.CLAIMED,
            MANIFEST,
            f"{good[0]}, a key that is not trusted here",
        )


def _inside(where: str | None) -> str:
    return where if where is not None and where.startswith(MANIFEST) else MANIFEST


_ASK_AGAIN = "ask for the directory as it was signed"

MALFORMED = register(
    Rule(
        "MA805",
        "the manifest is not in its one form",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "manifest.json is a DSSE envelope in canonical JSON with strict base64, around an in-toto "
        "Statement v1 that fits its schema.",
        "A manifest that could be written in two ways could be changed without its signature noticing.",
        "Get the directory again as it was signed; do not edit or reformat manifest.json.",
        "evidence",
        check,
    )
)
BAD_SIGNATURE = register(
    Rule(
        "MA806",
        "a signature does not hold",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each signature fits the payload and its public key, in its one form (low s, shortest DER), "
        "and its key id is the "
        "SHA-256 of that key.",
        "The manifest was changed after it was signed, or somebody put another's name on it.",
        "Get the directory again from whoever signed it.",
        "evidence",
        check,
    )
)
UNTRUSTED = register(
    Rule(
        "MA807",
        "nobody you trust signed this",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.INCONCLUSIVE,
        "At least one good signature is by a key on your own list of trusted keys. A key that comes with a submission "
        "proves nothing by being there.",
        "Everything can be rehashed and signed anew by a stranger; only the key says who vouches for it.",
        "Compare the fingerprint with its owner over another channel, then `memaudit key trust FILE --name NAME`.",
        "evidence",
        check,
    )
)
UNKNOWN_KIND = register(
    Rule(
        "MA816",
        "the manifest is of an unknown kind or version",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.INCONCLUSIVE,
        "The statement's predicate type is one that this version of memaudit knows.",
        "A newer major version may mean something else by the same words.",
        "Use a memaudit that knows this version.",
        "evidence",
        check,
    )
)
