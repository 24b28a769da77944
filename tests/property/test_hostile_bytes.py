"""Whatever bytes come: a finding that names the file, or a plain error; never a traceback, never a pass."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.artifact import order_file
from auditor.artifact.canonical import canonical_bytes
from auditor.artifact.safetensors_file import SafetensorsError, read
from auditor.artifact.strict_json import StrictJsonError, parse, parse_canonical
from auditor.errors import MemauditError
from auditor.evidence.run_view import RunView
from auditor.evidence.trust import TrustStore
from auditor.evidence.unfinished import Unfinished
from auditor.evidence.verify import verify
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
    events = [dict(event) for event in honest]
    for (line, name), value in changes.items():
        if line < len(events) and name in events[line]:
            events[line][name] = value if name != "event" or isinstance(value, str) else "x"
    events = [event for line, event in enumerate(events) if line not in left_out]
    for source, target in moves:
        if source < len(events):
            events.insert(target, events.pop(source))
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
