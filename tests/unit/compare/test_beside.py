"""What differs beside the steps, group by group."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.compare.anchor_pairs import AnchorPairs
from auditor.compare.beside import GROUPS, Row, arguments, beside, loaders
from tests.support.build_pair import Act, Script, sides, write_pair
from tests.support.build_run import PROGRAM, canonical


def plain(run: Script) -> None:
    run.anchor_now("start")
    run.begin(1)
    run.go()


def rows(a: Path, b: Path) -> list[tuple[str, str, Any, Any]]:
    one, two = sides(a, b)
    for side in (one, two):
        assert list(side.events())
    found = beside(one, two, AnchorPairs(one, two))
    assert all(isinstance(row, Row) and row.group in GROUPS for row in found)
    assert [GROUPS.index(row.group) for row in found] == sorted(GROUPS.index(row.group) for row in found)
    return [(row.group, row.name, row.a, row.b) for row in found]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--lr", "0.1"], {"--lr": "0.1"}),
        (["--lr=0.1"], {"--lr": "0.1"}),
        (["--lr", "-0.1"], {"--lr": "-0.1"}),
        (["--lr", "-1e-3"], {"--lr": "-1e-3"}),
        (["--low", "-inf"], {"--low": "-inf"}),
        (["-v", "-x"], {"-v": "", "-x": ""}),
        (["--sizes", "3", "4", "5", "--seed", "1"], {"--sizes": "3 4 5", "--seed": "1"}),
        (["train", "--lr", "0.1"], {"#1": "train", "--lr": "0.1"}),
        (["--lr=0.1", "data", "more"], {"--lr": "0.1", "#1": "data", "#2": "more"}),
        (["--name="], {"--name": ""}),
        (["--name=a=b"], {"--name": "a=b"}),
        (["-"], {"#1": "-"}),
        (["--file", "-"], {"--file": "-"}),
        (["", "-1"], {"#1": "", "#2": "-1"}),
        (["--lr", "1", "--lr", "2"], {"--lr": "2"}),
    ],
    ids=" ".join,
)
def test_options_are_found_by_name(argv: list[str], expected: dict[str, str]) -> None:
    assert arguments(argv) == expected


@given(st.lists(st.text("-=a1. ", max_size=4), max_size=6))
def test_any_command_line_has_options(argv: list[str]) -> None:
    found = arguments(argv)
    assert all(type(value) is str for value in found.values())
    assert arguments(list(argv)) == found


def test_equal_runs_have_no_row(tmp_path: Path) -> None:
    assert rows(*write_pair(tmp_path, plain, plain)) == []


def test_two_ways_to_write_an_option_are_no_difference(tmp_path: Path) -> None:
    assert rows(*write_pair(tmp_path, plain, plain, both={"argv": ["--lr", "1"]}, argv=["--lr=1"])) == []


def test_the_numerics_class_and_libraries(tmp_path: Path) -> None:
    found = rows(
        *write_pair(
            tmp_path,
            plain,
            plain,
            both={"numerics": {"isa": "AVX2"}, "packages": {"torch": "2.13.0"}},
            numerics={"threads": 2, "cuda": "13"},
            packages={"torch": "2.12.0", "numpy": "2.0.0"},
        )
    )
    assert found == [
        ("numerics", "cuda", None, "13"),
        ("numerics", "isa", "AVX2", None),
        ("numerics", "threads", 1, 2),
        ("numerics", "package torch", "2.13.0", "2.12.0"),
    ]


def test_python_and_flags(tmp_path: Path) -> None:
    class Other(Script):
        def environment(self, *given: Any, **more: Any) -> Any:
            found = super().environment(*given, **more)
            return found | {"python": {"version": "3.12.0"}, "flags": {"tf32": True}, "git": None}

    a, b = Script(tmp_path / "a", plain).build(), Other(tmp_path / "b", plain).build()
    assert [row for row in rows(a, b) if not row[1].startswith("git")] == [
        ("numerics", "python", "3.11.9", "3.12.0"),
        ("numerics", "tf32", None, True),
    ]


def test_the_program(tmp_path: Path) -> None:
    texts = {**PROGRAM, "train.py": b"other", "parts/model.py": b"changed", "more.py": b""}
    found = rows(*write_pair(tmp_path, plain, plain, seed="7", argv=["--lr", "2", "x"], texts=texts))
    named = {name: (a, b) for group, name, a, b in found if group == "program"}
    assert len(named) == len(found)
    assert sorted(named) == [
        "argument --lr",
        "module more.py",
        "module parts/model.py",
        "seed",
        "sha256",
    ] or named["argument --lr"] == (None, "2 x")
    assert named["seed"] == ("0", "7")
    assert named["module more.py"][0] is None
    assert named["argument --lr"] == (None, "2 x")


def test_a_program_in_another_folder_is_the_same(tmp_path: Path) -> None:
    def named(path: str | None) -> type[Script]:
        class Elsewhere(Script):
            def append(self, name: str, members: Any) -> None:
                if name == "start":
                    members = members | {"program": members["program"] | {"path": path}}
                super().append(name, members)

        return Elsewhere

    a = named("/home/a/train.py")(tmp_path / "a", plain).build()
    assert rows(a, named("C:\\b\\train.py")(tmp_path / "b", plain).build()) == []
    assert rows(a, named("/home/a/other.py")(tmp_path / "c", plain).build()) == [
        ("program", "file", "train.py", "other.py")
    ]
    assert rows(a, named(None)(tmp_path / "d", plain).build()) == [("program", "file", "train.py", None)]


def loading(*loaders: dict[str, Any]) -> Act:
    def act(run: Script) -> None:
        run.begin(1, **loaders[0])
        for number, each in enumerate(loaders[1:], 2):
            run.begin(number, **each)
        run.go()

    return act


def test_loaders_are_compared_by_their_number(tmp_path: Path) -> None:
    workers = {"count": 2, "persistent": False, "init": None}
    a = loading({}, {"loader": 2}, {"loader": 1, "batch_size": 99})
    b = loading({"batch_size": 8, "length": 13}, {"loader": 3, "workers": workers}, {"loader": 2, "workers": workers})
    one, two = write_pair(tmp_path, a, b)
    found = rows(one, two)
    assert found == [
        ("data", "loader batch_size", 4, 8),
        ("data", "loader length", 12, 13),
        ("data", "loader[2] workers count", 0, 2),
        ("data", "loader[2] workers persistent", None, False),
        ("data", "loader[3]", None, "there"),
    ]
    side, _ = sides(one, two)
    assert list(side.events())
    assert sorted(loaders(side)) == [1, 2]


def test_an_iterable_that_is_no_loader_is_passed_over(tmp_path: Path) -> None:
    assert rows(*write_pair(tmp_path, loading({"loader": None}), plain)) == [("data", "loader", None, "there")]


def test_probes(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, plain, plain)
    for run, size in ((a, 10), (b, 20)):
        probe = {"inputs": "A" * 22, "targets": None, "size": size, "kind": "none"}
        (run / "probe").mkdir()
        document = {"format": "probes-1", "probes": {"held out": probe}, "outcomes": [], "warnings": []}
        (run / "probe" / "probes.json").write_bytes(canonical(document) + b"\n")
    assert rows(a, b) == [("data", "probe held out size", 10, 20)]


def test_the_contract(tmp_path: Path) -> None:
    def seeded(seeded_by: str, *names: str) -> Act:
        def act(run: Script) -> None:
            run.held |= {f"stream.{name}": run.held["stream.torch"] for name in names}
            run.name_streams(names, seeded_by)
            run.streams[0]["consumers"] = [seeded_by]
            run.census()
            run.go()

        return act

    assert rows(*write_pair(tmp_path, seeded("x", "torch", "numpy"), seeded("y", "torch"))) == [
        ("contract", "stream.numpy", "there", None),
        ("contract", "stream.torch seeded_by", "x", "y"),
        ("contract", "stream.torch consumers", ["x"], ["y"]),
    ]


def test_the_census(tmp_path: Path) -> None:
    def named(kinds: dict[str, str], **half_lives: float) -> Act:
        def act(run: Script) -> None:
            for name in kinds:
                run.put(name, 1)
            run.name_sources(kinds, **half_lives)
            run.census()
            run.go()

        return act

    common = {"params": "params"}
    a = named({**common, "ema": "ema", "queue": "queue"}, ema=6.5)
    b = named({**common, "ema": "ema", "bn": "bn"}, ema=7.5)
    assert rows(*write_pair(tmp_path, a, b, both={"sources": common})) == [
        ("census", "bn", None, "there"),
        ("census", "ema half-life", 6.5, 7.5),
        ("census", "queue", "there", None),
    ]


def test_hyper_parameters_before_the_first_step(tmp_path: Path) -> None:
    def with_lr(*values: Any, later: float = 0.0) -> Act:
        def act(run: Script) -> None:
            run.put("hyper", {"clip": values[0]})
            run.put("hyper.lr", list(values))
            run.anchor_now("start")
            run.go({"hyper.lr": [later]})
            run.anchor_now()

        return act

    kinds = {"params": "params", "hyper.lr": "hyper", "hyper": "hyper"}
    found = rows(*write_pair(tmp_path, with_lr(0.1, 0.2), with_lr(0.1, 0.3, later=1.0), both={"sources": kinds}))
    assert found == [("hyper", "hyper.lr[1]", 0.2, 0.3)]
    kinds = {"params": "params", "hyper.lr": "hyper", "hyper[1].clip": "hyper"}

    def clipped(value: float) -> Act:
        def act(run: Script) -> None:
            run.put("hyper[1].clip", {"max": value})
            run.put("hyper.lr", value)
            run.anchor_now("start")
            run.go()

        return act

    found = rows(*write_pair(tmp_path / "more", clipped(1.0), clipped(2.0), both={"sources": kinds}))
    assert found == [("hyper", "hyper[1].clip.max", 1.0, 2.0)]


def test_a_damaged_environment_leaves_the_rest_to_be_compared(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, plain, plain, argv=["--lr", "2"])
    (a / "environment.json").write_bytes(b"{}\n")
    assert ("program", "argument --lr", None, "2") in rows(a, b)


def went_on(threads: int | None) -> Act:
    def act(run: Script) -> None:
        for number in range(1, 6):
            if number == 4 and threads is not None:
                run.cut(3, numerics={"threads": threads})
            run.go()

    return act


def test_what_a_run_went_on_with_after_a_cut(tmp_path: Path) -> None:
    """Another numerics class after a cut was seen by nobody."""
    a, b = write_pair(tmp_path / "B", went_on(None), went_on(2))
    assert rows(a, b) == [("numerics", "threads (B from step 4 on)", 1, 2)]
    assert rows(b, a) == [("numerics", "threads (A from step 4 on)", 2, 1)]
    assert rows(*write_pair(tmp_path / "equal", went_on(None), went_on(1))) == []


def test_a_damaged_environment_after_a_cut_is_noted_and_gives_no_row(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, went_on(None), went_on(2))
    (b / "environment-2.json").write_bytes(b"{}\n")
    assert rows(a, b) == []
    one, two = sides(a, b)
    assert list(two.events())
    beside(one, two, AnchorPairs(one, two))
    assert list(two.damage) == ["environment-2.json"]


@pytest.mark.parametrize("missing", ["a", "b"])
def test_a_missing_environment_is_no_difference(tmp_path: Path, missing: str) -> None:
    """All that the other run's environment says was told as a difference, and held to be a cause."""
    a, b = write_pair(tmp_path, plain, plain)
    ((a if missing == "a" else b) / "environment.json").unlink()
    assert rows(a, b) == []
