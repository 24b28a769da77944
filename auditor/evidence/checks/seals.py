"""Seals: the signatures inside the trace, which prove its prefix even where no manifest was written."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.run_directory import TRACE
from auditor.evidence.dsse import EnvelopeError
from auditor.evidence.examination import RUN, Examination
from auditor.evidence.seal import check_seal
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield seals that do not hold, and how much of the trace the good ones cover."""
    if examined.kind != RUN:
        return
    good: list[tuple[int, str]] = []
    bad = 0
    for event in examined.trace.of("seal"):
        where = f"{TRACE}#/{event['seq']}"
        try:
            signature = check_seal(event, where)
        except EnvelopeError as error:
            bad += 1
            yield BAD_SEAL.finding(error.where or where, f"the seal in line {event['seq'] + 1}: {error.what}")
            continue
        if signature.problem is not None:
            bad += 1
            yield BAD_SEAL.finding(where, f"the seal in line {event['seq'] + 1} does not hold: {signature.problem}")
        else:
            good.append((event["seq"], signature.keyid))
    signers = {signer.keyid for signer in examined.signers if signer.problem is None}
    strangers = sorted({keyid for _, keyid in good} - signers) if signers else []
    if strangers:
        yield OTHER_KEY.finding(
            TRACE,
            "the seals were made with another key than the manifest",
            expected=sorted(signers)[0],
            found=strangers[0],
        )
    if good and not bad and not examined.trace.problems:
        keys = {keyid for _, keyid in good}
        known = all(examined.trusted.trusts(keyid) for keyid in keys)
        yield Claim(
            f"the first {count(good[-1][0], 'line')} of the trace are sealed",
            Evidence.ATTESTED if known else Evidence.CLAIMED,
            TRACE,
            f"{count(len(good), 'seal')} by {', '.join(key[:16] + '…' for key in sorted(keys))}",
        )


BAD_SEAL = register(
    Rule(
        "MA812",
        "a seal does not hold",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Each seal is a good signature over the SHA-256 of the line before it and its own number.",
        "A seal is what a killed run has instead of a manifest; a broken one means that the trace "
        "before it was changed.",
        "Get the trace again as it was recorded.",
        "run",
        check,
    )
)
OTHER_KEY = register(
    Rule(
        "MA818",
        "seals and manifest are by different keys",
        Level.WARNING,
        Confidence.LIKELY,
        Evidence.ATTESTED,
        "A key that sealed the trace also signed the manifest.",
        "A run closed by somebody else than who recorded it may have been cut back first.",
        "Ask who closed the run, and why the recording key did not.",
        "run",
        check,
    )
)
