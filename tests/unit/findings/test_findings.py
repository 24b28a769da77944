import pytest

from auditor.errors import MemauditError
from auditor.evidence import checks
from auditor.findings import rules
from auditor.findings.evidence import Evidence, Level, Verdict, exit_status
from auditor.findings.finding import Claim, Finding, verdict, worst_last
from auditor.findings.formats.text import Style, escape, render_claims, render_findings
from auditor.lint import rules as lint_rules

assert checks.__all__
assert lint_rules.__all__


def finding(level: Level, evidence: Evidence = Evidence.CONTRADICTED, **changes: str) -> Finding:
    return Finding(
        "MA302", level, evidence, changes.get("where", "a"), changes.get("message", "m"), "try this", "9f", "77"
    )


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([], 0),
        ([finding(Level.NOTE), finding(Level.WARNING)], 0),
        ([finding(Level.ERROR)], 1),
        ([finding(Level.ERROR, Evidence.MISSING)], 1),
        ([finding(Level.ERROR, Evidence.INCONCLUSIVE)], 4),
        ([finding(Level.ERROR, Evidence.INCONCLUSIVE), finding(Level.ERROR)], 1),
    ],
)
def test_exit_status(findings: list[Finding], status: int) -> None:
    assert exit_status(verdict(findings)) == status
    assert status or verdict(findings) is Verdict.PASSED


def test_the_worst_is_last() -> None:
    mixed = [finding(Level.ERROR), finding(Level.NOTE), finding(Level.ERROR, Evidence.INCONCLUSIVE)]
    assert worst_last(mixed) == [mixed[1], mixed[2], mixed[0]]


def test_the_text_reads_like_a_compiler() -> None:
    text = render_findings(
        [finding(Level.ERROR, where="anchors/step-000400", message="it differs")], subject="run3", style=Style()
    )
    assert text == ("error[MA302] it differs\n  --> run3/anchors/step-000400\n  recorded 9f  found 77\n  try: try this")


def test_hostile_names_do_not_reach_the_terminal() -> None:
    evil = "a\x1b[2J\x07\r\n\u202eb\u2028\ud800"
    shown = render_findings([finding(Level.ERROR, where=evil, message=evil)], subject=evil, style=Style())
    shown += render_claims([Claim(evil, Evidence.PROVED, evil, evil)], style=Style())
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert escape("é\u202e") == "é\\u202e"


def test_many_findings_of_a_rule_are_counted() -> None:
    text = render_findings([finding(Level.ERROR, where=str(i)) for i in range(25)], subject="r", style=Style())
    assert text.count("-->") == 10
    assert "15 more" in text


def test_colour_only_where_asked() -> None:
    assert "\x1b" not in render_findings([finding(Level.ERROR)], subject="r", style=Style())
    assert "\x1b" in render_findings([finding(Level.ERROR)], subject="r", style=Style(colour=True))


def test_every_rule_says_what_why_and_how() -> None:
    for rule in rules.all_rules():
        assert rule.title
        assert all(len(text) > 15 and text.endswith((".", "`")) for text in (rule.what, rule.why, rule.mend)), rule.code


def test_codes_are_unique() -> None:
    with pytest.raises(ValueError, match="twice"):
        rules.register(rules.rule("MA801"))


def test_an_unknown_code_suggests_the_nearest() -> None:
    assert rules.rule("ma801").code == "MA801"
    with pytest.raises(MemauditError) as caught:
        rules.rule("MA8O1")
    assert "memaudit rule MA8" in str(caught.value.next_step)
