"""The closed world: every file is listed and as it was signed, and nothing else lies there."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.run_directory import MANIFEST, DirectoryError, is_half_written
from auditor.evidence.examination import Examination
from auditor.evidence.manifest import PARTIAL
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield every file that is changed, gone, added or no file at all; or the claim that all is as signed."""
    leftovers = leftover_paths(examined)
    for path in leftovers:
        yield HALF_WRITTEN.finding(path, "left half-written when the run was cut off; nothing of it is used")
    for entry in examined.inventory.irregular:
        if not (entry.kind == "empty directory" and entry.path in leftovers):
            yield IRREGULAR.finding(
                entry.path, f"in the directory lies: {entry.kind}", hint="remove it, or ask what it is for"
            )
    manifest = examined.manifest
    if manifest is None:
        return
    present = {path for path in examined.inventory.files if path != MANIFEST}
    missing, extra, changed = sorted(set(manifest.subjects) - present), sorted(present - set(manifest.subjects)), 0
    hashes: dict[str, str] = {}
    for path in sorted(present & set(manifest.subjects)):
        try:
            hashes[path] = examined.inventory.open(path).sha256
        except DirectoryError as error:
            changed += 1
            yield CHANGED.finding(path, f"a signed file cannot be read: {error.why or error.what}")
            continue
        if hashes[path] != manifest.subjects[path]:
            changed += 1
            yield CHANGED.finding(
                path,
                "a file is not the one that was signed",
                hint="get this file again from whoever signed the directory",
                expected=manifest.subjects[path],
                found=hashes[path],
            )
    by_hash = {sha256: path for path, sha256 in manifest.subjects.items()}
    for path in missing:
        yield GONE.finding(path, "a signed file is missing", hint="get the whole directory again")
    for path in extra:
        twin = by_hash.get(examined.inventory.open(path).sha256) if missing else None
        message = f"a file was added; its content is that of {twin}" if twin else "a file that nobody signed was added"
        yield ADDED.finding(path, message, hint="remove it, or ask for a manifest that lists it")
    if not (missing or extra or changed or examined.inventory.irregular) and examined.has_good_signature:
        yield Claim(
            "every file is the one that was signed",
            Evidence.PROVED,
            MANIFEST,
            f"{count(len(hashes), 'file')}, SHA-256 recomputed; no other file lies there",
        )


def leftover_paths(examined: Examination) -> list[str]:
    """Return what a recorder was writing or removing when it was killed; nothing where there is a manifest.

    It is no evidence, and no contradiction either.
    """
    if MANIFEST in examined.inventory:
        return []
    records = examined.history.anchors
    kept = {f"{record.event['path']}/" for record in records if record.dropped is None}
    # A path that was dropped may have been used again.
    gone = tuple({f"{record.event['path']}/" for record in records} - kept)

    def is_leftover(path: str) -> bool:
        return is_half_written(path) or path == PARTIAL or (bool(gone) and f"{path}/".startswith(gone))

    folders = [entry.path for entry in examined.inventory.irregular if entry.kind == "empty directory"]
    return sorted(path for path in (*examined.inventory.files, *folders) if is_leftover(path))


CHANGED = register(
    Rule(
        "MA801",
        "a file is not the one that was signed",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The SHA-256 of every file equals the one in the signed manifest.",
        "What is here is not what was vouched for: damaged in transit, or changed.",
        "Get the file again from whoever signed the directory.",
        "evidence",
        check,
    )
)
GONE = register(
    Rule(
        "MA802",
        "a signed file is missing",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.MISSING,
        "Every file that the manifest lists is there.",
        "What is withheld cannot be checked, and leaving it out changes what the rest seems to say.",
        "Get the whole directory again.",
        "evidence",
        check,
    )
)
ADDED = register(
    Rule(
        "MA803",
        "a file was added",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Nothing lies in the directory that the manifest does not list; dotfiles, `.git` and empty files count.",
        "A reader takes everything in a signed directory for signed.",
        "Remove the file, or have the directory signed again with it.",
        "evidence",
        check,
    )
)
IRREGULAR = register(
    Rule(
        "MA804",
        "something that is no regular file",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "The directory holds regular files only: no link, device, fifo, socket, empty directory or "
        "name that is not UTF-8.",
        "A link leads out of what was signed, and the others have no content that could be signed.",
        "Remove it, or put the file itself in its place before signing.",
        "evidence",
        check,
    )
)
HALF_WRITTEN = register(
    Rule(
        "MA821",
        "something left half-written",
        Level.NOTE,
        Confidence.CERTAIN,
        Evidence.INCONCLUSIVE,
        "An unfinished run holds no file under a temporary name and no folder that was not filled.",
        "The recorder writes under a temporary name and renames; whoever kills it leaves the name behind.",
        "Nothing to mend: what the trace names is whole. `memaudit seal` removes it.",
        "evidence",
        check,
    )
)
