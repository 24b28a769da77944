"""What `memaudit diff` prints."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.artifact.resources import validator
from auditor.cli import main
from tests.support.build_pair import Act, Script, word, write_pair
from tests.support.build_run import PROGRAM, RunBuilder

SGR = re.compile(r"\x1b\[[0-9;]*m")


def act(extra: float = 0.0, *, steps: int = 6, at: int = 4, anchors: tuple[int, ...] = (0, 6)) -> Act:
    def go(run: Script) -> None:
        for number in range(steps + 1):
            if number:
                run.go({"params": number + (extra if number >= at else 0.0), "stream.torch": number})
            if number in anchors:
                run.anchor_now("step" if number else "start")

    return go


def diff(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], str]:
    """The exit status, the lines of the answer and what went to stderr."""
    capsys.readouterr()
    status = main.run(["diff", *map(str, words)])
    answer = capsys.readouterr()
    return status, answer.out.splitlines(), answer.err


def block(lines: list[str], head: str) -> list[str]:
    """The lines of one part of the answer, its heading first."""
    begin = next(number for number, line in enumerate(lines) if line.startswith(head))
    return lines[begin : next((n for n, line in enumerate(lines[begin:], begin) if not line), len(lines))]


def test_equal_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_pair(tmp_path, act(), act(), both={"argv": ["--lr", "0.1"]})
    assert diff(capsys, a, b) == (
        0,
        [
            f"A  {a}  completed, 6 steps, seed 0  python train.py --lr 0.1",
            f"B  {b}  completed, 6 steps, seed 0  python train.py --lr 0.1",
            "",
            "beside the steps: numerics class, program, data, contract, census and hyper-parameters are the same",
            "",
            "equal: The runs are equal in every digest of 6 steps.",
        ],
        "",
    )


def test_different_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_pair(tmp_path, act(), act(0.5))
    status, lines, errors = diff(capsys, a, b)
    assert (status, errors) == (1, "")
    assert block(lines, "where they part") == [
        "where they part",
        "     steps 1-3  equal in every digest",
        "        step 4  params",
    ]
    assert block(lines, "first difference") == [
        "first difference: params",
        "  as the anchors hold it after step 6 (the next anchor that both have)",
        "  params/w[0], chunk 0: 6 in A, 6.5 in B",
        "  1 of 1 elements differ, by 0.083 of its size, 0.5 at most (1,048,576 units in the last place)",
    ]
    why = block(lines, "why")
    assert why[1] == "  likely    state was lost, edited, not restored or not updated [state], params"
    assert all(line.startswith("            ") for line in why[2:] if not line.startswith(("  likely", "  possible")))
    assert lines[-1].startswith("different: The runs part at step 4, first in params: state was lost, edited, ")


def test_runs_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_pair(tmp_path, act(steps=0), act())
    status, lines, _ = diff(capsys, a, b)
    assert status == 4
    assert lines[-1] == "not comparable: The runs cannot be compared: A has no step."
    assert not any(line.startswith(("where they part", "why")) for line in lines)


def test_an_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = Script(tmp_path / "a", act()).build()
    b = Script(tmp_path / "b", act(steps=4, anchors=(0,))).build(finish=False)
    status, lines, _ = diff(capsys, a, b)
    assert status == 4
    assert lines[1] == f"B  {b}  unfinished, 4 steps, seed 0  python train.py"
    assert lines[-2:] == [
        "inconclusive: The runs are equal in 4 steps that both have; B is unfinished.",
        f"next: memaudit verify {b}",
    ]


@pytest.mark.parametrize("damaged", ["a", "b"])
def test_the_damaged_run_is_the_one_to_verify(tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where both were completed it was always B."""
    for folder, extra in (("equal", 0.0), ("different", 0.5)):
        a, b = write_pair(tmp_path / folder, act(), act(extra))
        run = a if damaged == "a" else b
        (run / "environment.json").write_bytes(b"{}\n")
        _, lines, _ = diff(capsys, a, b)
        assert lines[-1] == f"next: memaudit verify {run}"


def test_one_step_and_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines, _ = diff(capsys, *write_pair(tmp_path / "one", act(), act(0.5, at=2)))
    assert block(lines, "where they part")[1:] == ["        step 1  equal in every digest", "        step 2  params"]

    def put(value: float) -> Act:
        def go(run: Script) -> None:
            run.put("params", value)
            run.anchor_now("start")
            run.go()

        return go

    _, lines, _ = diff(capsys, *write_pair(tmp_path / "start", put(1), put(2)))
    assert block(lines, "where they part")[1:] == ["  at the start  params"]
    assert block(lines, "first difference")[1] == "  as the anchors hold it before the first step"


def test_a_run_that_ends_before_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = diff(capsys, *write_pair(tmp_path, act(), act(steps=5, anchors=(0,))))
    assert status == 1
    assert block(lines, "where they part")[1:] == ["     steps 1-5  equal in every digest", "        step 6  (end)"]
    assert lines[-1] == "different: The runs are equal until B ends after step 5."


def test_many_sources_and_steps_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"mine{k}" for k in range(9)]

    def go(extra: float) -> Act:
        def steps(run: Script) -> None:
            run.go(dict.fromkeys(names, extra))
            for number in range(2, 12):
                run.go({f"later{number}": extra + number})

        return steps

    kinds = {"params": "params"} | dict.fromkeys([*names, *(f"later{k}" for k in range(2, 12))], "other")
    _, lines, _ = diff(capsys, *write_pair(tmp_path, go(0), go(0.5), both={"sources": kinds}))
    found = block(lines, "where they part")
    assert found[1] == f"        step 1  {', '.join(names[:6])} and 3 more"
    assert found[-2:] == ["        step 6  later6", "         later  5 sources more, up to step 11"]


def test_what_differs_beside_the_steps_stands_in_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 60
    _, lines, _ = diff(
        capsys, *write_pair(tmp_path, act(), act(), both={"argv": ["--name", long]}, argv=["--lr", "2"], seed=None)
    )
    assert block(lines, "what differs") == [
        "what differs beside the steps",
        "                            A                                   B",
        "  program  seed             0                                   none",
        "  program  argument --lr    none                                2",
        f"  program  argument --name  {'x' * 33}…  none",
    ]
    assert lines[1].endswith("  completed, 6 steps, no seed  python train.py --lr 2")


def test_more_rows_than_fit_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numerics = {f"flag{k:02}": k for k in range(40)}
    packages = {f"package{k}": "1" for k in range(40)} | {"torchvision": "1"}
    _, lines, _ = diff(capsys, *write_pair(tmp_path, act(), act(), numerics=numerics, packages=packages))
    found = block(lines, "what differs")
    assert len(found) == 27
    assert found[-1] == "  17 more; --format json lists them all"
    assert not any("package1" in line for line in lines)


def test_the_programs_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {**PROGRAM, "train.py": b"a\nb\n", "ends.py": b"a\nb\n"}
    after = {**PROGRAM, "train.py": b"a\nc\n", "ends.py": b"a\r\nb\r\n", "long.py": b"x\n" * 40}
    _, lines, _ = diff(capsys, *write_pair(tmp_path, act(), act(0.5), both={"texts": before}, texts=after))
    found = block(lines, "the programs")
    assert found[:6] == [
        "the programs",
        "  train.py: changed",
        "    @@ -1,2 +1,2 @@",
        "     a",
        "    -b",
        "    +c",
    ]
    assert found[6] == "  ends.py: changed", "its text was kept; it differs in its line ends alone"
    assert found[7] == "  long.py: only in B"
    assert found[-1] == "    17 lines more; --format json has them all"


def test_a_text_that_was_not_kept_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_pair(tmp_path, act(), act(0.5), texts={**PROGRAM, "train.py": b"new\n"})
    (b / "source" / "train.py").unlink()
    _, lines, _ = diff(capsys, a, b)
    assert block(lines, "the programs")[1] == "  train.py: changed, its text was not kept"


def parted(folder: Path, a: Any, b: Any, *, more: bool = False) -> tuple[Path, Path]:
    """Runs whose params hold these in the first step's anchor."""

    def go(value: Any) -> Act:
        def steps(run: Script) -> None:
            run.go({"params": value}, **({"leaves": {"params": {"w": word(repr(value))}}} if more else {}))
            run.anchor_now()

        return steps

    return write_pair(folder, go(a), go(b))


@pytest.mark.parametrize(
    ("a", "b", "line", "size"),
    [
        (
            np.array(1.0),
            np.array(np.nan),
            "params/w[], chunk 0: 1 in A, NaN in B",
            "  1 of 1 elements differ, NaN at most",
        ),
        (np.array([np.inf]), np.array([1.0]), "params/w[0], chunk 0: Infinity in A, 1 in B", None),
        (
            np.array([1.0]),
            np.array([1.0000000000000002]),
            "params/w[0], chunk 0: 1.0 in A, 1.0000000000000002 in B",
            "  1 of 1 elements differ, by 2.2e-16 of its size, 2.2e-16 at most (1 units in the last place)",
        ),
        (
            np.array([0.1], np.float32),
            np.array([0.2], np.float32),
            "params/w[0], chunk 0: 0.100000001 in A, 0.200000003 in B",
            None,
        ),
        (
            np.array([12345678901]),
            np.array([12345678902]),
            "params/w[0], chunk 0: 12345678901 in A, 12345678902 in B",
            None,
        ),
        (np.array([2**53]), np.array([2**53 + 1]), f"params/w[0], chunk 0: {2**53} in A, {2**53 + 1} in B", None),
        (np.array([False]), np.array([True]), "params/w[0], chunk 0: 0 in A, 1 in B", None),
        (
            np.array([1j], np.complex64),
            np.array([2j], np.complex64),
            "params/w[0], chunk 0",
            "  1 of 1 elements differ, by 1 of its size, 1 at most",
        ),
        (np.array([0.0]), np.array([1.0]), "params/w[0], chunk 0: 0 in A, 1 in B", None),
        (np.array([0.0]), np.array([-0.0]), "params/w[0], chunk 0: 0 in A, -0 in B", None),
    ],
    ids=["NaN", "infinity", "ulp", "float32", "integer", "large integer", "bool", "complex", "zero", "minus zero"],
)
def test_the_first_element_is_shown_as_far_as_it_differs(
    tmp_path: Path, a: Any, b: Any, line: str, size: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines, errors = diff(capsys, *parted(tmp_path, a, b))
    assert (status, errors) == (1, "")
    found = block(lines, "first difference")
    assert found[2] == f"  {line}"
    assert size is None or found[3] == size


def test_a_tensor_without_a_chunk_has_none_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`chunk None` stood there where the line of the step named a tensor that the anchors don't show."""

    def go(name: str) -> Act:
        def steps(run: Script) -> None:
            run.go({"params": float(len(name))}, leaves={"params": {"gone": word(name)}})
            run.anchor_now()

        return steps

    _, lines, _ = diff(capsys, *write_pair(tmp_path, go("a"), go("bb")))
    found = block(lines, "first difference")
    assert found[2] == "  params/gone"
    assert not any("None" in line for line in lines)


def test_nested_values_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(lr: float) -> Act:
        def steps(run: Script) -> None:
            run.put("hyper.lr", [{"lr": lr, "name": "\x1b[31m"}, lr])
            run.anchor_now("start")
            run.go()

        return steps

    kinds = {"params": "params", "hyper.lr": "hyper"}
    _, lines, _ = diff(capsys, *write_pair(tmp_path, go(0.1), go(0.1000001), both={"sources": kinds}))
    assert block(lines, "first difference")[2:] == [
        "  [0].lr: 0.1 in A, 0.1000001 in B",
        "  [1]: 0.1 in A, 0.1000001 in B",
    ]


def test_the_first_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(*ids: int) -> Act:
        def steps(run: Script) -> None:
            run.begin(1, batch_size=4, length=4)
            run.go(ids=ids, main=1, position=1)
            run.finish(1, ids, batches=1, batch_size=4, length=4)

        return steps

    _, lines, _ = diff(capsys, *write_pair(tmp_path, go(1, 2, 3), go(1, 2)))
    assert block(lines, "first difference")[1] == "  pass 1, place 3: sample 3 in A, the pass is over in B"


def test_how_a_difference_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(extra: float) -> Act:
        def steps(run: Script) -> None:
            for number in range(1, 5):
                run.go({"params": np.array([1.0 + extra * 10.0**number])})
                run.anchor_now()

        return steps

    _, lines, _ = diff(capsys, *write_pair(tmp_path, go(0), go(1e-6)))
    assert block(lines, "how far") == [
        "how far params are apart (share of their size)",
        f"        step 1  {'#' * 1:<28}  1e-05",
        f"        step 2  {'#' * 10:<28}  0.0001",
        f"        step 3  {'#' * 19:<28}  0.001",
        f"        step 4  {'#' * 28:<28}  0.01",
    ]


def test_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(value: float) -> Act:
        def steps(run: Script) -> None:
            run.put("stream.torch", value)
            run.anchor_now("start")
            run.go()

        return steps

    status, lines, _ = diff(capsys, *write_pair(tmp_path, go(1), go(2)))
    assert status == 0
    assert lines[-3:-1] == ["note: stream.torch differs, and nobody draws from it", ""]


def test_colour_repeats_what_words_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {**PROGRAM, "train.py": b"new\n"}
    for folder, extra in (("different", 0.5), ("equal", 0.0)):
        a, b = write_pair(tmp_path / folder, act(), act(extra), texts=texts)
        _, plain, _ = diff(capsys, a, b)
        monkeypatch.setenv("FORCE_COLOR", "1")
        _, coloured, _ = diff(capsys, a, b)
        assert not any("\x1b" in line for line in plain)
        assert any("\x1b[" in line for line in coloured)
        assert [SGR.sub("", line) for line in coloured] == plain
        verdict = {"different": "\x1b[1;31mdifferent\x1b[0m: ", "equal": "\x1b[1;32mequal\x1b[0m: "}[folder]
        assert coloured[-1].startswith(verdict)
        monkeypatch.setenv("NO_COLOR", "1")
        assert diff(capsys, a, b)[1] == plain
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.delenv("FORCE_COLOR")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra, expected in ((0.0, 0), (0.5, 1)):
        a, b = write_pair(tmp_path / str(extra), act(), act(extra))
        answers = [diff(capsys, a, b, *options) for options in (["--json"], ["--format", "json"])]
        assert answers[0] == answers[1]
        status, lines, errors = answers[0]
        assert (status, errors) == (expected, "")
        validator("diff").validate(json.loads("\n".join(lines)))


# Hostile names.

HOSTILE = "\x1b[31m\u202e\x07\n\u2028"


def test_names_from_strangers_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, stream = f"params{HOSTILE}", f"mine{HOSTILE}"

    def go(extra: float) -> Act:
        def steps(run: Script) -> None:
            held = {f"{HOSTILE}leaf": np.array([extra])}, {HOSTILE: extra}
            run.puts({source: held, f"stream.{stream}": extra})
            run.anchor_now("start")
            run.go({source: held, f"stream.{stream}": extra + 1}, leaves={source: {f"{HOSTILE}leaf": word(str(extra))}})
            run.outcome(HOSTILE, {HOSTILE: extra})
            run.anchor_now()

        return steps

    common = {"sources": {source: "params"}, "streams": (stream,), "argv": [HOSTILE, "--x"]}
    options = {
        "argv": [f"--{HOSTILE}", HOSTILE],
        "numerics": {HOSTILE: HOSTILE},
        "texts": {**PROGRAM, f"{HOSTILE[:3]}.py": b"\x1b[31m"},
    }
    a, b = write_pair(tmp_path, go(0), go(1), both=common, **options)
    (a / "source" / "train.py").write_bytes(b"damaged")
    status, lines, _ = diff(capsys, a, b)
    assert status == 1
    assert lines
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[31m\\u202e\\x07\\n\\u2028" in line for line in lines)
    for options_ in (["--json"], ["--format", "json"]):
        assert diff(capsys, a, b, *options_)[1][0] == "{"


def test_a_directory_whose_name_is_no_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunBuilder(tmp_path / "run").build()
    other = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff"))
    run.rename(other)
    status, lines, _ = diff(capsys, other, other)
    assert status == 0
    assert "run-\\udcff" in lines[0]
    status, lines, _ = diff(capsys, other, other, "--json")
    assert status == 0


# What is no pair of runs.


def test_what_is_no_pair_of_runs_is_a_plain_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunBuilder(tmp_path / "run").build()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "trace.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "file").symlink_to(run / "trace.jsonl")
    for other, status, says in (
        ("absent", 2, "error: no such directory"),
        ("run/trace.jsonl", 2, "error: "),
        ("empty", 3, "error: no run directory"),
        ("broken", 4, "error: the trace cannot be read"),
        ("loop", 2, "error: no such directory"),
        ("dangling", 2, "error: no such directory"),
        ("file", 2, "error: "),
    ):
        for pair in ((run, tmp_path / other), (tmp_path / other, run)):
            found, lines, errors = diff(capsys, *pair)
            assert (found, lines) == (status, [])
            assert errors.startswith(says)
            assert str(tmp_path / other) in errors
            assert "Traceback" not in errors


def test_a_link_to_a_run_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link named latest was refused."""
    run = RunBuilder(tmp_path / "run").build()
    (tmp_path / "latest").symlink_to(run)
    (tmp_path / "again").symlink_to("latest")
    for other in ("latest", "again"):
        status, lines, errors = diff(capsys, run, tmp_path / other)
        assert (status, errors) == (0, "")
        assert lines[1].startswith(f"B  {tmp_path / other}  completed")


def test_a_link_inside_of_a_run_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = RunBuilder(tmp_path / "run").build(), RunBuilder(tmp_path / "other").build()
    (other / "trace.jsonl").unlink()
    (other / "trace.jsonl").symlink_to(run / "trace.jsonl")
    status, _, errors = diff(capsys, run, other)
    assert status == 3
    assert errors.startswith("error: no run directory")


def test_the_same_directory_twice_is_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunBuilder(tmp_path / "run").build()
    status, lines, _ = diff(capsys, run, run)
    assert status == 0
    assert lines[-1] == "equal: The runs are equal in every digest of 6 steps."


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "c"], ["a", "b", "--format", "xml"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, errors = diff(capsys, *words)
    assert (status, lines) == (2, [])
    assert "Usage:" in errors


def test_a_reader_that_leaves_is_no_defect(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, act(), act(0.5))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "auditor.cli.main", "diff", str(a), str(b)]
    with os.fdopen(writer, "wb") as output:
        answer = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, timeout=60)
    assert answer.returncode == 141
    assert answer.stderr == b""


def test_nothing_of_torch_is_imported(tmp_path: Path) -> None:
    a, b = write_pair(tmp_path, act(), act(0.5))
    code = (
        "import sys\nfrom auditor.cli import main\n"
        f"status = main.run(['diff', {str(a)!r}, {str(b)!r}])\n"
        "sys.exit(status if 'torch' not in sys.modules else 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 1
