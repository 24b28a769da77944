"""Whatever bytes come: a finding that names the file, or a plain error; never a traceback, never a pass."""

import hashlib
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.artifact import order_file
from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.resources import validator
from auditor.artifact.safetensors_file import SafetensorsError, read
from auditor.artifact.strict_json import StrictJsonError, parse, parse_canonical
from auditor.cli.diff import text
from auditor.compare.comparison import compare
from auditor.errors import MemauditError
from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.run_view import RunView
from auditor.evidence.trust import TrustStore
from auditor.evidence.unfinished import Unfinished
from auditor.evidence.verify import verify
from auditor.findings.formats.json import render as json_text
from auditor.findings.formats.text import Style
from auditor.replay.reach import reach
from tests.support.build_run import Event, RunBuilder

SAFE = st.integers(-(2**53) + 1, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | SAFE | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@given(VALUES)
def test_canonical_bytes_are_read_back(value: object) -> None:
    again = parse_canonical(canonical_bytes(value) + b"\n", "x")
    assert canonical_bytes(again) == canonical_bytes(value)


@given(st.binary(max_size=200))
def test_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = parse(data, "x")
    except StrictJsonError:
        return
    assert json.loads(data) == value


@given(VALUES, st.data())
def test_a_flipped_bit_of_canonical_json_is_refused_or_another_value(value: object, data: st.DataObject) -> None:
    text = bytearray(canonical_bytes(value) + b"\n")
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        again = parse_canonical(bytes(text), "x")
    except StrictJsonError:
        return
    assert canonical_bytes(again) == bytes(text)[:-1]
    assert canonical_bytes(again) != canonical_bytes(value)


HEADER = st.dictionaries(
    st.text(max_size=3),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["U8", "F32", "X"]),
            "shape": st.lists(st.integers(-1, 4), max_size=2),
            "data_offsets": st.lists(st.integers(-1, 20), min_size=2, max_size=2),
        }
    )
    | VALUES,
    max_size=4,
)


@given(HEADER, st.binary(max_size=40))
def test_a_safetensors_file_is_tiled_by_its_tensors_or_refused(header: dict[str, object], body: bytes) -> None:
    raw = json.dumps(header).encode()
    try:
        tensors = read(len(raw).to_bytes(8, "little") + raw + body, "x")
    except SafetensorsError:
        return
    assert b"".join(bytes(tensor.data) for tensor in tensors.values()) == body


@given(st.binary(max_size=300))
def test_bytes_are_an_order_file_or_refused(data: bytes) -> None:
    for attempt in (data, b"\x93NUMPY\x01\x00" + data):
        try:
            ids = order_file.read(attempt, "x")
        except order_file.OrderFileError:
            continue
        assert order_file.read(order_file.encode(ids), "x").tolist() == ids.tolist()


@pytest.fixture(scope="module")
def signed() -> tuple[Path, TrustStore]:
    directory = Path(tempfile.mkdtemp())
    builder = RunBuilder(directory / "run")
    return builder.build(), TrustStore().add(builder.key.public_der, "the author")


FILES = (
    "manifest.json",
    "trace.jsonl",
    "environment.json",
    "source/parts/model.py",
    "order/pass-000001.npy",
    "anchors/step-000003/tensors.safetensors",
    "anchors/step-000003/values.json",
)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_is_free(signed: tuple[Path, TrustStore], name: str, place: float, bit: int) -> None:
    run, trusted = signed
    path = run / name
    before = path.read_bytes()
    changed = bytearray(before)
    changed[int(place * len(changed))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        verification = verify(run, trusted=trusted)
    finally:
        path.write_bytes(before)
    assert verification.exit_status == 1
    assert name in {finding.where.partition("#")[0] for finding in verification.findings if finding.level == "error"}


@SLOW
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), signed_too=st.booleans())
def test_a_file_cut_anywhere_never_passes(
    signed: tuple[Path, TrustStore], name: str, place: float, signed_too: bool
) -> None:
    run, trusted = signed
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(run, copy)
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[: int(place * len(data))])
        if not signed_too and name != "manifest.json":
            (copy / "manifest.json").unlink()
        assert verify(copy, trusted=trusted).exit_status in (1, 4)


class Eventful(RunBuilder):
    """Every event of the format: nested passes, anchors stored and dropped, and a cut."""

    def train(self) -> None:
        first = self.anchor("start", 1)
        self.begin_pass()
        self.consume(1)
        self.take_step(1)
        inside = self.anchor("step", 1)
        self.begin_pass(loader=2, samples=6)
        self.consume(2)
        self.take_step(1, by_hand=2)
        self.resume(inside)
        for _ in range(2):
            self.consume(1)
            self.take_step(1)
        self.end_pass(1)
        self.drop(first)
        self.anchor("end", 1)


WORDS = """
abandoned also at batches by_hand complete environment epoch event file files first from head ids keyid last loader
multiset pass path policy position resumed samples sha256 sources status step steps streams windows
"""
FIELDS = st.sampled_from(WORDS.split())
SMALL = st.integers(-1, 7)
LIKELY = (
    st.sampled_from(["iter", "stored", "dropped", "resume", "pass", "step", "anchors/step-000001", "A" * 22, "a" * 64])
    | st.sampled_from(["order/pass-000001.npy", "manifest.json", "../x", "trace.jsonl", "environment-2.json"])
    | SMALL
    | st.lists(st.lists(SMALL, min_size=2, max_size=2), max_size=3)
    | st.lists(st.none() | st.just("A" * 22), max_size=3)
    | st.fixed_dictionaries({"position": SMALL, "repeated": SMALL | st.none(), "skipped": SMALL | st.none()})
    | st.fixed_dictionaries({"batches": SMALL, "multisets": st.lists(st.just("A" * 22), max_size=2)})
    | st.fixed_dictionaries({"file": st.just("environment-2.json"), "sha256": st.just("0" * 64)})
    | st.dictionaries(st.sampled_from(["tensors.safetensors", "values.json", "x"]), st.just("0" * 64), max_size=2)
    | VALUES
)


@pytest.fixture(scope="module")
def eventful() -> tuple[RunBuilder, list[Event]]:
    builder = Eventful(Path(tempfile.mkdtemp()) / "run")
    builder.build()
    return builder, [json.loads(line) for line in builder.lines]


def rewritten(original: RunBuilder, events: list[Event], root: Path, *, finish: bool) -> Path:
    """The run with other events, chained and signed anew: whoever lies like this has a key."""
    shutil.copytree(original.root, root)
    for name in ("trace.jsonl", "manifest.json"):
        (root / name).unlink()
    again = RunBuilder(root, key=original.key)
    again.program, again.step = original.program, original.step
    for event in events:
        name = event["event"]
        if name == "seal":
            again.seal()
        elif finish or name != "end":
            again.append(name, {key: value for key, value in event.items() if key not in ("event", "seq", "prev")})
    if finish:
        again.sign()
    return root


def lying(
    honest: list[Event], changes: dict[tuple[int, str], object], moves: list[tuple[int, int]], left_out: set[int]
) -> list[Event]:
    """Return the events with members changed, lines left out and lines moved."""
    events = [dict(event) for event in honest]
    for (line, name), value in changes.items():
        if line < len(events) and name in events[line]:
            events[line][name] = value if name != "event" or isinstance(value, str) else "x"
    events = [event for line, event in enumerate(events) if line not in left_out]
    for source, target in moves:
        if source < len(events):
            events.insert(target, events.pop(source))
    return events


@SLOW
@given(
    changes=st.dictionaries(st.tuples(st.integers(0, 40), FIELDS), LIKELY, max_size=3),
    moves=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=2),
    left_out=st.sets(st.integers(1, 40), max_size=2),
    finish=st.booleans(),
)
def test_events_that_lie_are_never_a_traceback(
    eventful: tuple[RunBuilder, list[Event]],
    changes: dict[tuple[int, str], object],
    moves: list[tuple[int, int]],
    left_out: set[int],
    finish: bool,
) -> None:
    original, honest = eventful
    events = lying(honest, changes, moves, left_out)
    with tempfile.TemporaryDirectory() as scratch:
        run = rewritten(original, events, Path(scratch) / "run", finish=finish)
        trusted = TrustStore().add(original.key.public_der, "the author")
        assert verify(run, trusted=trusted).exit_status in ((0, 1) if finish else (1, 4))
        try:
            view = RunView.open(run)
            list(view.steps())
            reach(view, 1, 1)
            for each in view.passes():
                view.order(each["pass"])
        except MemauditError:
            pass  # a plain error is an answer
        try:
            Unfinished.open(run).close(original.key)
        except MemauditError:
            return
        assert verify(run, trusted=trusted).exit_status == 0


# memaudit diff: an answer that fits its schema, or a plain error.


def diffed(a: Path, b: Path) -> str | None:
    """Compare two runs and return the verdict, None for a plain error; the document and the text are looked at."""
    try:
        comparison = compare(a, b)
    except MemauditError:
        return None
    document = comparison.to_json()
    validator("diff").validate(document)
    json_text(document)
    shown = text(comparison, Style())
    assert all(line.isprintable() for line in shown.split("\n"))
    return comparison.verdict


READ_ALWAYS = ("trace.jsonl", "environment.json", "source/parts/model.py")
"""What diff reads of runs that turn out equal."""


@SLOW
@given(
    name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), turned=st.booleans()
)
def test_no_bit_that_diff_reads_is_free(
    signed: tuple[Path, TrustStore], name: str, place: float, bit: int, turned: bool
) -> None:
    run, _ = signed
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(run, copy)
        changed = bytearray((copy / name).read_bytes())
        changed[int(place * len(changed))] ^= 1 << bit
        (copy / name).write_bytes(changed)
        # Of the last line nothing but its own hash speaks, which stands in the manifest: verify is for that.
        last = name == "trace.jsonl" and changed.count(b"\n") and int(place * len(changed)) > changed[:-1].rfind(b"\n")
        verdict = diffed(*((copy, run) if turned else (run, copy)))
        assert name not in READ_ALWAYS or last or verdict != "equal"


@SLOW
@given(
    changes=st.dictionaries(st.tuples(st.integers(0, 40), FIELDS), LIKELY, max_size=3),
    moves=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=2),
    left_out=st.sets(st.integers(1, 40), max_size=2),
    how=st.sampled_from(["honest first", "honest last", "twice"]),
    finish=st.booleans(),
)
def test_a_diff_of_events_that_lie_is_never_a_traceback(
    eventful: tuple[RunBuilder, list[Event]],
    changes: dict[tuple[int, str], object],
    moves: list[tuple[int, int]],
    left_out: set[int],
    how: str,
    finish: bool,
) -> None:
    original, honest = eventful
    events = lying(honest, changes, moves, left_out)
    with tempfile.TemporaryDirectory() as scratch:
        run = rewritten(original, events, Path(scratch) / "run", finish=finish)
        diffed(*{"honest first": (original.root, run), "honest last": (run, original.root), "twice": (run, run)}[how])


class Planted(RunBuilder):
    """A run that parts from others in its second step, with whatever is planted in place of one of its files."""

    def __init__(self, root: Path, name: str, data: bytes) -> None:
        super().__init__(root, key=generate_once())
        self.planted = name, data

    def take_step(self, main: int | None, **more: object) -> None:
        if self.step == 1:
            self.weight = self.weight + np.float32(1)
        super().take_step(main, **more)

    def write(self, path: str, data: bytes) -> str:
        name, planted = self.planted
        return super().write(path, planted if path.endswith(name) else data)


@cache
def generate_once() -> SigningKey:
    return generate()


VALUES_FILE = st.fixed_dictionaries(
    {
        "sources": VALUES
        | st.dictionaries(
            st.sampled_from(["params", "optimizer.momentum_buffer"]),
            VALUES | st.dictionaries(st.sampled_from(["$", "items", "value"]), VALUES | st.just("dict"), max_size=3),
            max_size=2,
        ),
        "streams": VALUES | st.fixed_dictionaries({"torch": VALUES}),
    }
)


@SLOW
@given(
    planted=st.tuples(st.just("values.json"), (VALUES | VALUES_FILE).map(canonical_bytes))
    | st.tuples(st.just("environment.json"), VALUES.map(canonical_bytes))
    | st.tuples(
        st.sampled_from(["tensors.safetensors", ".npy", "train.py", "environment.json"]), st.binary(max_size=80)
    ),
    turned=st.booleans(),
)
def test_files_with_the_right_hash_may_hold_anything(
    signed: tuple[Path, TrustStore], planted: tuple[str, bytes], turned: bool
) -> None:
    run, _ = signed
    name, data = planted
    with tempfile.TemporaryDirectory() as scratch:
        other = Planted(Path(scratch) / "run", name, data + b"\n" * (name.endswith("json"))).build()
        assert diffed(*((other, run) if turned else (run, other))) == "different"


STEP_MEMBERS = st.sampled_from(
    ["by_hand", "step", "pass", "position", "ids", "batch", "sources", "streams", "loss", "also", "leaves", "event"]
)
ODD = VALUES | st.integers(-(2**64), 2**64) | st.just({"event": "census"}) | st.just({"event": "resume"})


@SLOW
@given(
    number=st.integers(1, 6), member=STEP_MEMBERS, value=ODD, twice=st.sampled_from([None, "census", "resume", "end"])
)
def test_a_step_may_hold_anything(
    signed: tuple[Path, TrustStore], number: int, member: str, value: object, twice: str | None
) -> None:
    """Numbers that no canonical JSON holds, and keys given twice: the trace is chained all the same."""
    run, _ = signed
    head, lines = "0" * 64, []
    for line in (run / "trace.jsonl").read_bytes().splitlines():
        event = json.loads(line) | {"prev": head}
        written = event | {member: value} if event.get("step") == number and event["event"] == "step" else event
        # As much of it is canonical as can be.
        raw = json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if twice is not None and written is not event:
            raw = f'{{"event":"{twice}",{raw[1:]}'
        lines.append(raw.encode() + b"\n")
        head = hashlib.sha256(lines[-1]).hexdigest()
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "run"
        shutil.copytree(run, other)
        (other / "trace.jsonl").write_bytes(b"".join(lines))
        diffed(run, other)
        diffed(other, run)
