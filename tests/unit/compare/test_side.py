"""One run opened to be compared: what it says beside its steps, cuts and damage."""

import hashlib
import json
from pathlib import Path

import pytest

from auditor.compare.side import Follower, Side, carry, take
from auditor.errors import InconclusiveError, MemauditError, NothingToAuditError
from auditor.evidence.run_view import RunView
from tests.support.build_pair import Script
from tests.support.build_run import LATER, RunBuilder


def read(side: Side) -> list[str]:
    return [event["event"] for event in side.events()]


def test_a_run_is_opened_with_all_that_it_says(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run").build()
    side, view = Side(run), RunView.open(run)
    events = [event for event in side.events() if event["event"] not in ("seal",)]
    assert [each["seq"] for each in events] == [e["seq"] for e in view.trace.events if e["event"] != "seal"]
    assert (side.status, side.steps, side.damage) == ("completed", 6, {})
    assert side.kinds == {"params": "params", "optimizer.momentum_buffer": "params"}
    assert side.names == {"params", "optimizer.momentum_buffer", "stream.torch"}
    assert side.kind_of("params") == "params"
    assert [each.path for each in side.anchors] == [each.path for each in view.anchors]
    assert [each["pass"] for each in side.passes()] == [1, 2]
    assert [side.order_of(each).tolist() for each in side.passes()] == [view.order(1).tolist(), view.order(2).tolist()]
    assert side.environment == view.environment
    assert side.manifest is not None
    assert side.probes == {}


def test_an_unfinished_run_is_opened(tmp_path: Path) -> None:
    side = Side(RunBuilder(tmp_path / "run").build(finish=False))
    read(side)
    assert (side.status, side.steps, side.manifest) == ("unfinished", 6, None)


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_the_status_is_that_of_the_end(tmp_path: Path, status: str) -> None:
    side = Side(Script(tmp_path / "run", lambda run: run.go(), status=status).build())
    assert side.status == "unfinished", "nothing was read yet"
    read(side)
    assert side.status == status


def test_a_trace_broken_in_its_middle_is_broken(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run").build()
    lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if json.loads(line).get("step") == 2)
    (run / "trace.jsonl").write_bytes(
        b"".join([*lines[:at], lines[at].replace(b'"loss":0.5', b'"loss":0.7'), *lines[at + 1 :]])
    )
    side = Side(run)
    read(side)
    assert (side.status, side.steps) == ("broken", 2)
    assert "line" in side.trace.problem.message


def test_what_cannot_be_opened_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToAuditError, match="no run directory"):
        Side(tmp_path / "empty")
    for data in (b"", b"{}\n", b"\xff" * 100, b'{"event":"end"}\n'):
        (tmp_path / "empty" / "trace.jsonl").write_bytes(data)
        with pytest.raises(InconclusiveError, match="cannot be read"):
            Side(tmp_path / "empty")
    with pytest.raises(MemauditError):
        Side(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MemauditError):
        Side(tmp_path / "file")


def test_a_trace_that_begins_with_something_else_is_refused(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run")
    run.root.mkdir()
    run.census()
    with pytest.raises(InconclusiveError, match="start"):
        Side(run.root)


class Again(RunBuilder):
    """Two steps after an anchor are done again after a cut."""

    def train(self) -> None:
        self.anchor("start", 1)
        self.begin_pass()
        self.consume(1)
        self.take_step(1)
        inside = self.anchor("step", 1)
        for _ in range(2):
            self.consume(1)
            self.take_step(1)
        self.resume(inside, torch="2.13.1")
        for _ in range(2):
            self.consume(1)
            self.take_step(1)
        self.end_pass(1)
        self.anchor("end", 1)


def test_void_steps_are_passed_over(tmp_path: Path) -> None:
    run = Again(tmp_path / "run").build()
    side, view = Side(run), RunView.open(run)
    steps = [event for event in side.events() if event["event"] == "step"]
    assert [each["seq"] for each in steps] == [each.seq for each in view.steps()]
    assert side.steps == 3
    assert [each.path for each in side.anchors] == [each.path for each in view.anchors]
    assert side.environment["numerics"]["torch"] == "2.13.0"
    assert LATER


def test_a_follower_carries_digests_as_the_run_view_does(tmp_path: Path) -> None:
    for builder in (RunBuilder, Again):
        run = builder(tmp_path / builder.__name__).build()
        follower, other = Follower(Side(run)), Follower(Side(run))
        for step in RunView.open(run).steps():
            assert follower.advance()
            assert other.advance()
            take(follower, other)
            assert follower.by_source() == step.sources
            assert follower.by_stream() == step.streams
        assert not follower.advance()


def test_a_source_that_goes_and_comes_back_is_carried_by_name(tmp_path: Path) -> None:
    def act(run: Script) -> None:
        run.go({"params": 1, "ema": 5})
        run.name_sources({"params": "params"})
        run.census()
        run.go({"params": 2})
        run.name_sources({"ema": "ema", "params": "params"})
        run.last.pop("ema")
        run.census()
        run.go({"params": 3})

    run = Script(tmp_path / "run", act, sources={"params": "params", "ema": "ema"}).build()
    side = Side(run)
    follower, other, found = Follower(side), Follower(Side(run)), []
    while follower.advance() and other.advance():
        take(follower, other)
        found.append(follower.by_source())
    assert [sorted(each) for each in found] == [["ema", "params"], ["params"], ["ema", "params"]]
    assert found == [step.sources for step in RunView.open(run).steps()]
    assert side.kinds == {"params": "params", "ema": "ema"}
    assert [each["name"] for each in side.census["sources"]] == ["ema", "params"]


def test_carry_fills_up_what_is_null_and_bears_lists_of_other_lengths() -> None:
    assert carry(["a", "b"], [None, "c"]) == ["a", "c"]
    assert carry(["a", "b"], ["d"]) == ["d", "b"]
    assert carry(["a"], ["d", "e"]) == ["d"]
    assert carry([], ["d"]) == []


@pytest.mark.parametrize("line", ["by hand", "twice"])
def test_a_step_that_looks_like_a_census_by_its_bytes_is_none(tmp_path: Path, line: str) -> None:
    """Censuses are found by their bytes; a member that nobody reads, or a key given twice, held the same bytes."""
    run = Script(tmp_path / "run", lambda run: None).build(finish=False)
    again = Script(tmp_path / "again", lambda run: None)
    again.root, again.lines = run, (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    head = hashlib.sha256(again.lines[-1]).hexdigest()
    plain = f'"batch":null,"ids":null,"pass":null,"position":null,"prev":"{head}","seq":{len(again.lines)},"step":1'
    lists = '"sources":["A"],"streams":["A"]'
    events = {
        "by hand": f'{{"by_hand":{{"event":"census"}},"event":"step",{plain},{lists}}}\n',
        "twice": f'{{"event":"census","event":"step",{plain},{lists}}}\n',
    }
    with (run / "trace.jsonl").open("ab") as file:
        file.write(events[line].encode())
    side = Side(run)
    assert len(side.censuses) == 1
    assert side.names == {"params", "optimizer.momentum_buffer", "stream.torch"}


# Damage.


def test_a_changed_file_is_noted_and_not_used(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run").build()
    order = run / "order" / "pass-000001.npy"
    order.write_bytes(order.read_bytes()[:-1] + b"\x09")
    (run / "order" / "pass-000002.npy").unlink()
    (run / "environment.json").write_bytes(b"{}\n")
    side = Side(run)
    read(side)
    assert [side.order_of(each) for each in side.passes()] == [None, None]
    assert side.environment == {}
    assert side.damage == {
        "order/pass-000001.npy": "it is not the file whose hash the trace has",
        "order/pass-000002.npy": "no such file",
        "environment.json": "it is not the file whose hash the trace has",
    }


def test_files_whose_hash_is_right_and_content_is_not_are_noted(tmp_path: Path) -> None:
    class Liar(RunBuilder):
        def write(self, path: str, data: bytes) -> str:
            if path.endswith(".npy"):
                data = b"no ids"
            return super().write(path, b"[]\n" if path == "environment.json" else data)

    run = Liar(tmp_path / "run").build()
    (run / "probe").mkdir()
    (run / "probe" / "probes.json").write_bytes(b"[]\n")
    (run / "manifest.json").write_bytes(b"[]\n")
    side = Side(run)
    read(side)
    assert side.order_of(side.passes()[0]) is None
    assert (side.environment, side.probes, side.manifest) == ({}, {}, None)
    assert sorted(side.damage) == ["environment.json", "manifest.json", "order/pass-000001.npy", "probe/probes.json"]


def test_the_environments_in_which_a_run_went_on(tmp_path: Path) -> None:
    side = Side(Again(tmp_path / "run").build())
    ((step, environment),) = side.environments_after_cuts()
    assert environment["numerics"]["torch"] == "2.13.1"
    assert step == side.history.cuts[0].event["step"]
    (tmp_path / "run" / "environment-2.json").write_bytes(b"{}\n")
    damaged = Side(tmp_path / "run")
    assert damaged.environments_after_cuts() == []
    assert list(damaged.damage) == ["environment-2.json"]
    assert Side(RunBuilder(tmp_path / "plain").build()).environments_after_cuts() == []


def test_a_link_to_a_run_directory_is_followed(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path / "run").build()
    (tmp_path / "latest").symlink_to(run)
    side = Side(tmp_path / "latest")
    assert side.path == tmp_path / "latest"
    assert read(side) == read(Side(run))


def test_links_that_lead_nowhere_are_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for name in ("loop", "gone"):
        with pytest.raises(MemauditError):
            Side(tmp_path / name)
