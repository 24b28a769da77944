"""The program's text: whether what the run keeps of it is what was hashed when recording began."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.run_directory import ENVIRONMENT, MANIFEST, SOURCE, environment_of
from auditor.errors import MemauditError
from auditor.evidence.checks.formats import named_files
from auditor.evidence.examination import RUN, Examination
from auditor.evidence.source_texts import SourceTexts, read_source_texts
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register

_SHOWN = 3


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield kept files that no environment file names as they are; or the claim that all of them are as recorded."""
    if examined.kind != RUN:
        return
    traced = {path for path, _, _ in named_files(examined.trace.events)}
    environments = [ENVIRONMENT, *sorted(path for path in traced if path.startswith("environment-"))]
    if MANIFEST in examined.inventory and not examined.trace.problems:
        # Without a manifest it is what a recorder left that was killed while it was about to go on.
        for path in examined.inventory.files:
            file = environment_of(path)
            if file is not None and file not in environments:
                yield NOT_AS_RECORDED.finding(path, f"a file of the program in {file}, which the trace does not name")
    texts: list[SourceTexts] = []
    for file in environments:
        environment = examined.document(file, "environment") if file in examined.inventory else None
        if environment is None or isinstance(environment, MemauditError):
            return  # MA814 or MA817 says so
        texts.append(read_source_texts(examined.inventory, file, environment["program"]))
        for misfit in texts[-1].misfits:
            yield NOT_AS_RECORDED.finding(
                misfit.where,
                misfit.message,
                evidence=Evidence.MISSING if misfit.is_missing else None,
                expected=misfit.expected,
                found=misfit.found,
            )
    if any(each.files for each in texts) and not any(each.misfits for each in texts):
        yield Claim("the program's text is the one whose hash was recorded", Evidence.PROVED, SOURCE, _sentence(texts))


def _sentence(texts: list[SourceTexts]) -> str:
    kept, named = sum(len(each.files) for each in texts), sum(len(each.hashes) for each in texts)
    said = f"{count(kept, 'file')}, SHA-256 recomputed"
    if kept == named:
        return said
    absent = list(dict.fromkeys(path for each in texts for path in each.hashes if path not in each.files))
    more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    return f"{said}; not kept: {', '.join(absent[:_SHOWN])}{more}"


NOT_AS_RECORDED = register(
    Rule(
        "MA403",
        "the program's text is not the one that was recorded",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Every file below `source/` is one that environment.json names as kept, with the SHA-256 that it gives, and "
        "each of those is there; the same for `source-2/` and environment-2.json.",
        "Whoever reads the text, or compares it with another run's, would take it for the program that ran.",
        "Get the directory again as it was recorded. To keep the text out, record with `--no-sources`.",
        "run",
        check,
    )
)
