"""MA701: an effect that stands on fewer than six units."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.run_directory import ESTIMATE
from auditor.evidence.examination import STUDY, Examination
from auditor.findings.evidence import Confidence, Evidence, Level
from auditor.findings.finding import Claim, Finding
from auditor.findings.formats.text import count
from auditor.findings.rules import Rule, register

FEWEST_UNITS = 6
"""With n pairs the exact sign-flip test cannot go below 2 / 2^n: at 5 that is 0.0625, at 6 it is 0.031."""


def check(examined: Examination) -> Iterator[Finding | Claim]:
    """Yield every row that is called an effect on fewer than six units."""
    if examined.kind != STUDY or ESTIMATE not in examined.inventory:
        return
    estimate = examined.document(ESTIMATE, "estimate")
    if not isinstance(estimate, dict):
        return  # MA854 says so
    for index, row in enumerate(estimate["estimates"]):
        units = len(set(row["units"]))
        if row["verdict"] == "effect" and units < FEWEST_UNITS:
            yield RULE.finding(
                f"{ESTIMATE}#/estimates/{index}",
                f"{row['arm']}, {row['outcome']} at horizon {row['horizon']}: an effect is claimed on "
                f"{count(units, 'unit')}",
                hint="run the study again with --seeds 6 or more",
                expected=f"{FEWEST_UNITS} units or more",
                found=str(units),
            )


RULE = register(
    Rule(
        "MA701",
        "an effect on fewer than six units",
        Level.ERROR,
        Confidence.CERTAIN,
        Evidence.CONTRADICTED,
        "Every row of estimate.json whose verdict is `effect` has six units or more.",
        "With five pairs no exact paired test can reach p = 0.05: the smallest it can give is "
        "0.0625. What looks like an "
        "effect then stands on an assumption about the distribution that five numbers cannot check.",
        "Run the study again with `--seeds 6` or more; finished cells are kept.",
        "study",
        check,
        lint_only=True,
    )
)
