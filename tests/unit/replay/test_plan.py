import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.resources import validator
from auditor.replay.plan import (
    DEFAULT_OUTCOMES,
    Place,
    Plan,
    PlanError,
    PlannedFork,
    bytes_of,
    from_document,
    from_options,
    intervention_name,
    parse_intervention,
)
from auditor.replay.plan_file import from_yaml

RESET = {"source": "optimizer", "do": "reset"}
YAML = """
format: plan-1
forks: [{run: runs/digits, at: 400}]
arms:
  - do: [{source: optimizer.momentum_buffer, do: reset, how: zero}]
  - name: both
    do: [{source: optimizer, do: reset}, {source: 'optimizer[b].step', do: reset, how: zero}]
horizons: [100, 1, 10]
units: {kind: fork, count: 3}
margins: {nll: 0.01}
"""


def document(**changes: Any) -> dict[str, Any]:
    base = {
        "format": "plan-1",
        "forks": [{"run": "run", "at": 4}],
        "arms": [{"do": [RESET]}],
        "horizons": [2],
        "units": {"kind": "fork", "seeds": [0, 1]},
    }
    return {**base, **changes}


def pointed(place: Place) -> str:
    return "plan.yaml#/" + "/".join(map(str, place))


def options(*do: str, horizons: tuple[int, ...] = (2,)) -> Plan:
    return from_options("run", [4], list(do), horizons, 2)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_plan_in_yaml(tmp_path: Path) -> None:
    plan = from_yaml(write(tmp_path / "plan.yaml", YAML))
    assert plan.forks == (PlannedFork(str(tmp_path / "runs/digits"), 400),), "a relative run lies beside the plan"
    assert [arm.name for arm in plan.arms] == ["optimizer.momentum_buffer=reset,how=zero", "both"]
    assert plan.arms[1].do[1] == {"source": "optimizer[b].step", "do": "reset", "how": "zero"}
    assert (plan.horizons, plan.seeds, plan.margins) == ((1, 10, 100), (0, 1, 2), {"nll": 0.01})
    absolute = YAML.replace("runs/digits", "/runs/digits")
    assert from_yaml(write(tmp_path / "plan.yaml", absolute)).forks[0].run == "/runs/digits"


def test_defaults() -> None:
    plan = from_document(document(), pointed)
    assert (plan.outcomes, plan.margins, plan.seed) == (DEFAULT_OUTCOMES, {}, 0)


def test_the_command_line_says_the_same() -> None:
    plan = options("optimizer=reset")
    assert plan == from_document(document(), pointed)


def test_the_document_follows_its_schema_and_gives_the_plan_back() -> None:
    plan = options("optimizer=reset+optimizer[b].step=reset,how=zero", horizons=(3, 1))
    validator("plan").validate(plan.document())
    assert from_document(plan.document(), pointed) == plan
    assert plan.sha256 == hashlib.sha256(canonical_bytes(plan.document()) + b"\n").hexdigest()


def test_the_hash_is_of_all_that_is_declared() -> None:
    plans: list[Plan] = [
        from_document(document(**changes), pointed)
        for changes in (
            {},
            {"forks": [{"run": "run", "at": 5}]},
            {"forks": [{"run": "other", "at": 4}]},
            {"arms": []},
            {"arms": [{"name": "a", "do": [RESET]}]},
            {"horizons": [3]},
            {"units": {"kind": "fork", "seeds": [0, 2]}},
            {"outcomes": ["nll"]},
            {"margins": {"nll": 0.1}},
            {"margins": {"nll": 0.2}},
            {"seed": 1},
            {"probes": ["p"]},
            {"level": 0.9},
            {"family": "fork"},
            {"looks": [2]},
            {"reach": "rerun"},
            {"executor": {"jobs": 2}},
        )
    ]
    assert len({plan.sha256 for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer=reset", {"source": "optimizer", "do": "reset"}),
        ("a.b[c]=reset,how=zero", {"source": "a.b[c]", "do": "reset", "how": "zero"}),
        ("bn=recalibrate,batches=20", {"source": "bn", "do": "recalibrate", "batches": 20}),
        (
            "p=jitter,sigma=1e-3,n=-2,m=+3,k=1.",
            {"source": "p", "do": "jitter", "sigma": 0.001, "n": -2, "m": 3, "k": 1.0},
        ),
        ("order=swap,first=401-420,x=", {"source": "order", "do": "swap", "first": "401-420", "x": ""}),
        ("h=set,half_life=a=b", {"source": "h", "do": "set", "half_life": "a=b"}),
    ],
)
def test_an_intervention_on_the_command_line(text: str, expected: dict[str, Any]) -> None:
    found = parse_intervention(text)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    "text", ["", "optimizer", "=reset", "optimizer=", "o=reset,how", "o=reset,=x", "o=r,a=1,a=2", "o=r,do=x"]
)
def test_an_intervention_of_another_form_is_refused_where_it_stands(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_intervention(text)
    assert caught.value.where.startswith("--do")


def test_plus_joins_interventions_and_leaves_exponents_alone() -> None:
    plan = options("optimizer.step=reset,how=zero+optimizer.exp_avg=reset")
    assert [part["source"] for part in plan.arms[0].do] == ["optimizer.step", "optimizer.exp_avg"]
    assert plan.arms[0].name == "optimizer.step=reset,how=zero+optimizer.exp_avg=reset"
    with pytest.raises(PlanError, match=r"sigma=100.* it takes no such argument"):
        options("optimizer=reset,sigma=1e+2+optimizer=reset")


@pytest.mark.parametrize("text", ["bn=explode", "optimizer=rest", "optimizer=reset,how=foo", "params=reset"])
def test_an_intervention_that_does_not_exist_is_refused_before_any_cell(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        options(text)
    assert caught.value.next_step


def test_arms_that_differ_only_in_a_default_are_the_same() -> None:
    with pytest.raises(PlanError, match="two arms are the same"):
        options("optimizer=reset", "optimizer=reset,how=clear")


WORD = st.text("abcdefgh_.[]", min_size=1, max_size=6)
ARGUMENTS = st.dictionaries(WORD.filter(lambda w: w not in ("do", "source")), WORD | st.integers(-99, 99), max_size=3)


@given(WORD, WORD, ARGUMENTS)
def test_a_name_is_read_back(source: str, action: str, arguments: dict[str, Any]) -> None:
    description = {"source": source, "do": action, **arguments}
    assert parse_intervention(intervention_name(description)) == description


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"horizons": []}, "#/horizons"),
        ({"horizons": [2, 0]}, "#/horizons/1"),
        ({"horizons": [2, 2]}, "#/horizons"),
        ({"forks": [{"run": "run", "at": -1}]}, "#/forks/0/at"),
        ({"forks": [{"run": "run", "at": 1}] * 2}, "#/forks"),
        ({"forks": []}, "#/forks"),
        ({"units": {"kind": "full", "seeds": [0]}}, "#/units/kind"),
        ({"units": {"kind": "fork", "seeds": [0, 0]}}, "#/units/seeds"),
        ({"units": {"count": 0}}, "#/units/count"),
        ({"units": {"count": 10**9}}, "#/units/count"),
        ({"margins": {"nll": 0}}, "#/margins/nll"),
        ({"margins": {"nll": float("nan")}}, "#/margins/nll"),
        ({"seed": 2**60}, "#/seed"),
        ({"arms": [{"do": [{"source": "optimizer"}]}]}, "#/arms/0/do/0"),
        ({"arms": [{"do": [{**RESET, "x": b"1"}]}]}, "#/arms/0/do/0/x"),
        ({"arms": [{"do": [RESET]}, {"name": "again", "do": [RESET]}]}, "#/arms/1"),
        ({"arms": [{"name": "a", "do": [RESET]}, {"name": "a", "do": [{**RESET, "how": "zero"}]}]}, "#/arms/1"),
        ({"arms": [{"name": "carry", "do": [RESET]}]}, "#/arms/0"),
        ({"arms": [{"name": "gate", "do": [RESET]}]}, "#/arms/0"),
        ({"format": "plan-2"}, "#/format"),
        ({"surprise": 1}, "#/surprise"),
        ({"arms": [{"name": "1-ulp", "do": [RESET]}]}, "#/arms/0"),
        ({"arms": [{"do": [RESET]}, {"do": [{**RESET, "at": 9}]}]}, "#/arms/1/do/0"),
        ({"arms": [{"do": [RESET, {**RESET, "after": 2}]}]}, "#/arms/0/do/1"),
        ({"arms": [{"do": [{**RESET, "after": 1, "at": 5}]}]}, "#/arms/0/do/0"),
        ({"looks": [2, 2]}, "#/looks"),
        ({"looks": [3]}, "#/looks"),
        ({"level": 1.0}, "#/level"),
        ({"family": "arm"}, "#/family"),
        ({"reach": "teleport"}, "#/reach"),
        ({"executor": {"kind": "ray"}}, "#/executor/kind"),
        ({"executor": {"memory": "4 elephants"}}, "#/executor/memory"),
        ({"executor": {"job": 2}}, "#/executor/job"),
        ({"probes": []}, "#/probes"),
    ],
    ids=lambda value: None if "0x" in repr(value) else ascii(value),
)
def test_an_error_names_where_it_is(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(PlanError) as caught:
        from_document(document(**changes), pointed)
    assert caught.value.where == f"plan.yaml{where}"


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_mapping_is_refused(value: Any) -> None:
    with pytest.raises(PlanError, match="schema"):
        from_document(value, pointed)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: &x [1]\nb: *x\n", 2, "aliases"),
        ("a: 1\nb: 2\na: 3\n", 3, "not YAML"),
        ("a: {x: 1,\n x: 2}\n", 2, "not YAML"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "not YAML"),
        ("a: [1\n", 2, "not YAML"),
        ("a:\n\tb: 1\n", 2, "not YAML"),
    ],
)
def test_yaml_that_is_no_plan_is_refused_by_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = write(tmp_path / "plan.yaml", text)
    with pytest.raises(PlanError, match=message) as caught:
        from_yaml(path)
    assert caught.value.where == f"{path}:{line}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"# " + b"x" * (1 << 20), "larger than"),
        (b"[" + b"1," * 30_000 + b"1]", "more than 20000 tokens"),
        (b"[" * 9_000 + b"]" * 9_000, "not YAML|schema"),
        (b"a: \xff", "not UTF-8"),
        (b"a: 1\n---\nb: 2\n", "not YAML"),
        (b"", "schema"),
    ],
    ids=["bytes", "tokens", "depth", "encoding", "documents", "empty"],
)
def test_yaml_beyond_the_limits_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        from_yaml(write(tmp_path / "plan.yaml", data))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read") as caught:
        from_yaml(tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")


def test_several_forks_share_arms_whose_steps_are_counted_from_each(tmp_path: Path) -> None:
    text = """
format: plan-1
forks: [{run: a, at: 40}, {run: b, at: 90}]
arms:
  - do: [{source: order, do: swap, first: +1-+5, second: +6-+10}]
  - do: [{source: optimizer, do: reset, after: 3}]
horizons: [10]
units: {count: 2}
"""
    plan = from_yaml(write(tmp_path / "plan.yaml", text))
    assert [fork.at for fork in plan.forks] == [40, 90]
    swap, later = (arm.at(90).do[0] for arm in plan.arms)
    assert swap == {"source": "order", "do": "swap", "first": "91-95", "second": "96-100"}
    assert later == {"source": "optimizer", "do": "reset", "at": 93}
    assert plan.arms[1].name == "optimizer=reset,after=3"
    with pytest.raises(PlanError, match="after step 90") as caught:
        from_yaml(write(tmp_path / "plan.yaml", text.replace("after: 3", "at: 43")))
    assert caught.value.where == f"{tmp_path / 'plan.yaml'}:6"


LINES = {
    "horizon: [10]": (7, "did you mean horizons"),
    "margins: {nll: -1}": (7, "-1"),
    "executor:\n  kind: forkserver\n  jobs: 0": (9, "0 is less"),
    "executor:\n  timeout: 3\n  job: 2": (9, "did you mean jobs"),
    "arms:\n  - do:\n    - {source: optimizer, do: reset}\n    - source: bn\n      do: explode": (10, "explode"),
}


@pytest.mark.parametrize("text", LINES, ids=ascii)
def test_an_error_in_a_plan_names_its_line(tmp_path: Path, text: str) -> None:
    line, word = LINES[text]
    head = "format: plan-1\nforks:\n  - run: a\n    at: 40\nhorizons: [10]\nunits: {count: 2}\n"
    with pytest.raises(PlanError) as caught:
        from_yaml(write(tmp_path / "plan.yaml", head + text + "\n"))
    assert caught.value.where == f"{tmp_path / 'plan.yaml'}:{line}"
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("4 GiB", 4 << 30), ("500MB", 500_000_000), ("1.5kB", 1500), ("12", 12), ("x", None)]
)
def test_an_amount_of_memory(text: str, expected: int | None) -> None:
    assert bytes_of(text) == expected


def test_numbers_are_read_as_everybody_writes_them(tmp_path: Path) -> None:
    text = YAML.replace("nll: 0.01", "nll: 1e-3, brier: 2.5E-4, accuracy: 1")
    assert from_yaml(write(tmp_path / "plan.yaml", text)).margins == {"nll": 0.001, "brier": 0.00025, "accuracy": 1.0}
