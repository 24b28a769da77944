"""The environment: whether the signed statement and environment.json agree, and whether the code can be found again."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.run_directory import ENVIRONMENT, TRACE
from auditor.errors import MemauditError
from auditor.evidence.examination import RUN, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield where accounts of the environment differ, and what of it is missing."""
    if examined.kind != RUN or ENVIRONMENT not in examined.inventory:
        return
    environment = examined.document(ENVIRONMENT, "environment")
    if isinstance(environment, MemauditError):
        return  # MA814 says so
    if examined.manifest is not None and examined.manifest.predicate.get("numerics") != environment["numerics"]:
        yield OTHER_NUMERICS.finding(
            f"{ENVIRONMENT}#/numerics", "the signed numerics class is another than environment.json's"
        )
    start = examined.trace.events[0] if examined.trace.events else None
    if start is not None and start["event"] == "start":
        for name in ("path", "sha256", "argv"):
            if start["program"][name] != environment["program"][name]:
                message = f"environment.json names another program {name} than the trace"
                yield OTHER_NUMERICS.finding(f"{ENVIRONMENT}#/program/{name}", message)
    git = environment["git"]
    if git is None:
        yield NO_COMMIT.finding(f"{ENVIRONMENT}#/git", "the code was under no version control that could be read")
    elif git["dirty"]:
        yield NO_COMMIT.finding(
            f"{ENVIRONMENT}#/git/dirty", "the code had changes that were not committed", found=git["diff_sha256"]
        )
    yield Claim(
        "the environment it ran in",
        examined.attested,
        ENVIRONMENT,
        _sentence(environment["numerics"], environment["packages"]),
    )
    streams = (examined.trace.of("census") or [{"streams": []}])[-1]["streams"]
    for stream in streams:
        for warning in stream["warnings"]:
            yield UNSEEDED.finding(TRACE, f"stream {stream['name']}: {warning}")


def _sentence(numerics: dict[str, object], packages: dict[str, str]) -> str:
    shown = [
        f"{name} {numerics[name]}" for name in ("torch", "machine", "system") if isinstance(numerics.get(name), str)
    ]
    return ", ".join([*shown, f"{len(packages)} packages listed"])


OTHER_NUMERICS = register(
    Rule(
        "MA401",
        "two accounts of the environment differ",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The numerics class in the manifest and the program in the trace are those of environment.json.",
        "Bits are compared only inside one numerics class; a wrong one makes an honest replay look like a fraud.",
        "Get environment.json again as it was recorded.",
        "run",
        check,
    )
)
NO_COMMIT = register(
    Rule(
        "MA402",
        "the code cannot be found by its commit",
        Level.NOTE,
        Confidence.CERTAIN,
        Evidence.MISSING,
        "The program was under version control with nothing uncommitted.",
        "Without it nobody can get the code that ran, whatever the paper links to.",
        "Commit before recording.",
        "run",
        check,
    )
)
UNSEEDED = register(
    Rule(
        "MA101",
        "a random stream is not under the contract",
        Level.WARNING,
        Confidence.LIKELY,
        Evidence.CLAIMED,
        "The RNG contract has no warning: every stream was seeded by somebody the recorder saw.",
        "Another run of the same program draws other numbers.",
        "Record with `--seed N`, or give the generator a seed of its own.",
        "run",
        check,
    )
)
