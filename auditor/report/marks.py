"""A word, a shape and a tone for each verdict, so that no verdict depends on colour alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """How one verdict looks."""

    word: str
    shape: str
    """The name of an icon in templates/parts/macros.html.j2."""
    tone: str
    """A class in templates/report.css: good, signed, same, plain, open or bad. Only proved and passed are good."""


#: Evidence classes in the order they are shown, each with what it means.
EVIDENCE = {
    "proved": (Mark("proved", "tick", "good"), "Recomputed here from the files themselves."),
    "attested": (Mark("attested", "seal", "signed"), "Signed by a key that is trusted here; not recomputed."),
    "claimed": (Mark("claimed", "quote", "plain"), "Written down by the author; nobody trusted here vouches for it."),
    "missing": (Mark("missing", "gap", "open"), "Not in the files."),
    "contradicted": (Mark("contradicted", "cross", "bad"), "The files disagree with it."),
    "inconclusive": (Mark("inconclusive", "half", "open"), "Cannot be decided with what is here."),
    "human": (Mark("for a person", "person", "plain"), "No program can judge it."),
}

VERDICTS = {
    "passed": Mark("passed", "tick", "good"),
    "failed": Mark("failed", "cross", "bad"),
    "inconclusive": Mark("inconclusive", "half", "open"),
    "complete": Mark("complete", "tick", "good"),
    "gate failed": Mark("gate failed", "half", "open"),
    "null failed": Mark("null failed", "cross", "bad"),
    # Of comparisons. A difference is an answer, neither good nor bad news; equal digests prove no more than that.
    "equal": Mark("equal", "equal", "same"),
    "different": Mark("different", "fork", "signed"),
    "not comparable": Mark("not comparable", "slash", "plain"),
}

#: Verdicts of a row. An effect is neither good nor bad news, so none of them is green or red.
ROWS = {
    "effect": Mark("effect", "dot", "signed"),
    "equivalent": Mark("equivalent", "equal", "same"),
    "inconclusive": Mark("inconclusive", "half", "open"),
    "descriptive": Mark("descriptive", "square", "plain"),
    "not applied": Mark("not applied", "slash", "plain"),
}

#: How sure a cause is: a full, a half and an empty circle.
CONFIDENCES = {
    "certain": Mark("certain", "dot", "signed"),
    "likely": Mark("likely", "moon", "same"),
    "possible": Mark("possible", "gap", "plain"),
}

LEVELS = {
    "error": Mark("error", "cross", "bad"),
    "warning": Mark("warning", "half", "open"),
    "note": Mark("note", "square", "plain"),
}


def mark(table: dict[str, Mark], word: str) -> Mark:
    """The mark of a word; one that nobody knows is shown as it is, never as good."""
    return table.get(word, Mark(word, "half", "open"))


def evidence_mark(word: str) -> Mark:
    """The mark of an evidence class."""
    known = EVIDENCE.get(word)
    return known[0] if known else Mark(word, "half", "open")
