"""The terminal output: what is known, then what was found, the worst last, then the verdict in words.

Run names, tensor names and file names are hostile strings: control characters are written as escapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from auditor.findings.evidence import Evidence, Level, Verdict
from auditor.findings.finding import Claim, Finding, worst_last

_RESET = "\x1b[0m"
_BOLD, _RED, _GREEN, _YELLOW, _BLUE, _DIM = "1", "31", "32", "33", "34", "2"
_LEVEL_COLOUR = {Level.ERROR: _RED, Level.WARNING: _YELLOW, Level.NOTE: _BLUE}
_VERDICT_COLOUR = {Verdict.PASSED: _GREEN, Verdict.FAILED: _RED, Verdict.INCONCLUSIVE: _YELLOW}
_EVIDENCE_COLOUR = {
    Evidence.PROVED: _GREEN,
    Evidence.ATTESTED: _GREEN,
    Evidence.CLAIMED: _YELLOW,
    Evidence.MISSING: _RED,
    Evidence.CONTRADICTED: _RED,
    Evidence.INCONCLUSIVE: _YELLOW,
    Evidence.HUMAN: _BLUE,
}
_SHOWN_OF_A_CODE = 10


@dataclass(frozen=True)
class Style:
    """Whether the output is coloured. Words carry the meaning; colour only repeats it."""

    colour: bool = False

    def paint(self, text: str, *codes: str) -> str:
        """Return ``text`` in the given SGR codes, or as it is."""
        return f"\x1b[{';'.join(codes)}m{text}{_RESET}" if self.colour and codes else text


def escape(text: str) -> str:
    """Return ``text`` with control, format (bidirectional overrides) and unpaired characters as visible escapes."""
    if text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def render_findings(findings: Iterable[Finding], *, subject: str, style: Style) -> str:
    """Return findings grouped by rule, the worst last; past ten of one rule the rest is counted."""
    ordered = worst_last(findings)
    blocks: list[str] = []
    shown: dict[tuple[str, Level], int] = {}
    for position, finding in enumerate(ordered):
        key = (finding.code, finding.level)
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= _SHOWN_OF_A_CODE:
            blocks.append(_block(finding, subject, style))
        following = ordered[position + 1] if position + 1 < len(ordered) else None
        last_of_group = following is None or (following.code, following.level) != key
        if last_of_group and shown[key] > _SHOWN_OF_A_CODE:
            rest = shown[key] - _SHOWN_OF_A_CODE
            blocks.append(f"{finding.level}[{finding.code}] {rest} more; --format json lists them all")
    return "\n\n".join(blocks)


def render_claims(claims: Sequence[Claim], *, style: Style) -> str:
    """Return the claims as a table, grouped by evidence class: what stands firmest first."""
    order = list(Evidence)
    lines: list[str] = []
    for claim in sorted(claims, key=lambda each: order.index(each.evidence)):
        word = style.paint(f"{claim.evidence:<13}", _EVIDENCE_COLOUR[claim.evidence])
        lines.append(f"  {word} {escape(claim.what)}")
        if claim.message:
            lines.append(f"  {'':<13} {style.paint(escape(claim.message), _DIM)}")
    return "\n".join(lines)


def render_facts(facts: Sequence[tuple[str, str]]) -> str:
    """Return names and values in two columns."""
    width = max((len(name) for name, _ in facts), default=0)
    return "\n".join(f"  {name:<{width}}  {escape(value)}" for name, value in facts)


def render_closing(verdict: Verdict, sentence: str, next_command: str | None, *, style: Style) -> str:
    """Return the last lines: the verdict in words, and the command to run next."""
    line = style.paint(str(verdict), _BOLD, _VERDICT_COLOUR[verdict]) + f": {escape(sentence)}"
    return f"{line}\nnext: {escape(next_command)}" if next_command else line


def heading(text: str, *, style: Style) -> str:
    """Return a heading line."""
    return style.paint(escape(text), _BOLD)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 file``, ``2 files``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _block(finding: Finding, subject: str, style: Style) -> str:
    label = style.paint(f"{finding.level}[{finding.code}]", _BOLD, _LEVEL_COLOUR[finding.level])
    suffix = f" ({finding.evidence})" if finding.evidence is Evidence.INCONCLUSIVE else ""
    place = "/".join(part for part in (subject.rstrip("/"), finding.where) if part not in ("", "."))
    lines = [f"{label} {escape(finding.message)}{suffix}", f"  --> {escape(place)}"]
    if finding.expected is not None or finding.found is not None:
        pair = [
            f"{word} {escape(value)}"
            for word, value in (("recorded", finding.expected), ("found", finding.found))
            if value is not None
        ]
        lines.append("  " + "  ".join(pair))
    if finding.hint:
        lines.append(f"  try: {escape(finding.hint)}")
    return "\n".join(lines)


def _escape_character(character: str) -> str:
    # Control, format (bidirectional overrides, zero width), lone surrogates, separators but the space, and code points
    # that nobody assigned: what a terminal makes of them is not known.
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
