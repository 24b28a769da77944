"""Closing a run that was cut off: what is refused, what is tidied up, and that it can be killed itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.artifact import order_file
from auditor.artifact.trace import TraceWriter
from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.trust import TrustStore
from auditor.evidence.unfinished import AlreadyClosedError, Unfinished
from auditor.evidence.verify import verify
from tests.support.build_run import RunBuilder


class Killed(RunBuilder):
    """Killed inside its second pass, after step 5: its log is on the disk, and the last anchor was just stored."""

    store_last = True

    def train(self) -> None:
        self.anchor("start", 1)
        self.walk(1)
        self.anchor("pass", 2)
        self.begin_pass()
        self.consume(2)
        self.take_step(2)
        self.seal()
        self.consume(2)
        self.take_step(2)
        self.anchor("step", 2, store=self.store_last)

    def build(self, *, finish: bool = False) -> Path:
        return super().build(finish=finish)

    def seal(self) -> None:
        if self.step < 5:
            super().seal()


@pytest.fixture
def killed(tmp_path: Path, key: SigningKey) -> Path:
    return Killed(tmp_path / "killed", key=key).build()


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trace.jsonl").read_text().splitlines()]


def close(run: Path, key: SigningKey) -> list[str]:
    return Unfinished.open(run).close(key)


def codes(run: Path, trusted: TrustStore) -> tuple[int, set[str]]:
    verification = verify(run, trusted=trusted)
    return verification.exit_status, {finding.code for finding in verification.findings}


def test_a_closed_run_holds_and_says_that_it_was_interrupted(
    killed: Path, key: SigningKey, trusted: TrustStore
) -> None:
    done = close(killed, key)
    assert done == [
        "made order/pass-000002.npy of the pass in progress, 8 sample ids",
        "ended the trace: interrupted after step 5",
        "1 step after the last seal was signed now: only your word is for it",
        f"signed the run with {key.keyid}",
    ]
    verification = verify(killed, trusted=trusted)
    assert (verification.exit_status, [finding.code for finding in verification.findings]) == (0, ["MA822"])
    message = verification.findings[0].message
    assert message == "the run was interrupted after step 5 and closed later; 1 step of it was signed only then"
    assert verification.summary["status"] == "interrupted"
    last = [event for event in events(killed) if event["event"] == "pass"][-1]
    assert (last["complete"], last["samples"], last["batches"], last["last"]) == (False, 8, 2, 5)
    assert not list(killed.glob("order/*.part"))


def test_a_closed_run_is_not_closed_again(killed: Path, key: SigningKey) -> None:
    close(killed, key)
    before = (killed / "manifest.json").read_bytes()
    with pytest.raises(AlreadyClosedError) as caught:
        close(killed, key)
    assert caught.value.exit_status == 2
    assert (killed / "manifest.json").read_bytes() == before


def test_only_the_key_that_made_the_seals_closes_a_run(killed: Path) -> None:
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    with pytest.raises(MemauditError, match="sealed with another key"):
        close(killed, generate())
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before


def test_a_run_without_a_seal_belongs_to_nobody(tmp_path: Path, key: SigningKey) -> None:
    class Unsealed(Killed):
        def seal(self) -> None:
            """Make none."""

    with pytest.raises(MemauditError, match="no seal"):
        close(Unsealed(tmp_path / "run", key=key).build(), key)


def test_a_run_with_seals_by_two_keys_is_refused(tmp_path: Path, key: SigningKey) -> None:
    class Two(Killed):
        def seal(self) -> None:
            super().seal()
            self.key = key

    with pytest.raises(MemauditError, match="several keys"):
        close(Two(tmp_path / "run", key=generate()).build(), key)


def drop_a_line(run: Path) -> None:
    lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    (run / "trace.jsonl").write_bytes(b"".join([*lines[:4], *lines[5:]]))


def change_an_order_file(run: Path) -> None:
    order_file.write(run / "order/pass-000001.npy", np.arange(12))


def change_the_log(run: Path) -> None:
    (run / "order/pass-000002.part").write_bytes(np.arange(100, 112, dtype="<u8").tobytes())


def reverse_the_log(run: Path) -> None:
    path = run / "order/pass-000002.part"
    ids = np.frombuffer(path.read_bytes(), "<u8")
    path.write_bytes(np.concatenate([ids[:4], ids[:3:-1], ids]).tobytes())


def change_an_anchor(run: Path) -> None:
    path = run / "anchors/step-000003/tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


@pytest.mark.parametrize(
    "tamper", [drop_a_line, change_an_order_file, change_an_anchor], ids=lambda each: each.__name__
)
def test_a_run_that_contradicts_itself_is_left_as_it_is(
    killed: Path, key: SigningKey, tamper: Callable[[Path], None]
) -> None:
    tamper(killed)
    with pytest.raises(MemauditError, match="does not hold") as caught:
        close(killed, key)
    assert caught.value.exit_status == 2
    assert "memaudit verify" in str(caught.value.next_step)
    assert not (killed / "manifest.json").exists()


def test_a_log_with_other_ids_than_the_steps_is_a_contradiction(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    class Longer(Killed):
        def train(self) -> None:
            super().train()
            self.consume(2)
            self.take_step(2)

    run = Longer(tmp_path / "run", key=key).build()
    assert codes(run, trusted)[1] == {"MA808"}
    reverse_the_log(run)
    assert codes(run, trusted) == (1, {"MA201", "MA808"})


@pytest.mark.parametrize("tamper", [change_the_log, lambda run: (run / "order/pass-000002.part").unlink()])
def test_a_log_that_no_step_confirms_is_not_entered(
    killed: Path, key: SigningKey, trusted: TrustStore, tamper: Callable[[Path], None]
) -> None:
    tamper(killed)
    close(killed, key)
    assert codes(killed, trusted) == (0, {"MA822"})
    assert [event["pass"] for event in events(killed) if event["event"] == "pass"] == [1]


@pytest.mark.parametrize("missing", [1, 4, 8 * 3 + 5])
def test_a_log_that_lacks_the_last_step_gives_what_it_has(
    killed: Path, key: SigningKey, trusted: TrustStore, missing: int
) -> None:
    path = killed / "order/pass-000002.part"
    path.write_bytes(path.read_bytes()[:-missing])
    close(killed, key)
    last = [event for event in events(killed) if event["event"] == "pass"][-1]
    assert (last["samples"], last["batches"], last["last"]) == (4, 1, 4)
    assert codes(killed, trusted) == (0, {"MA822"})


def test_an_order_file_without_its_event_is_entered(killed: Path, key: SigningKey, trusted: TrustStore) -> None:
    part = killed / "order/pass-000002.part"
    order_file.write(killed / "order/pass-000002.npy", np.frombuffer(part.read_bytes(), "<u8"))
    assert "made order/pass-000002.npy of the pass in progress, 8 sample ids" in close(killed, key)
    assert codes(killed, trusted) == (0, {"MA822"})


def test_a_torn_line_and_half_written_things_go(killed: Path, key: SigningKey, trusted: TrustStore) -> None:
    with (killed / "trace.jsonl").open("ab") as trace:
        trace.write(b'{"event":"step","pa')
    (killed / "anchors/.step-000006.77.tmp").mkdir()
    (killed / "anchors/.step-000006.77.tmp/tensors.safetensors").write_bytes(b"half")
    (killed / "manifest.json.partial").write_bytes(b"{")
    (killed / "environment-2.json").write_bytes((killed / "environment.json").read_bytes())
    (killed / "probe").mkdir()
    done = close(killed, key)
    assert "removed the last line of the trace, which was cut short after 19 bytes" in done
    assert codes(killed, trusted) == (0, {"MA822"})
    assert sorted(path.name for path in killed.iterdir()) == [
        "anchors",
        "environment.json",
        "manifest.json",
        "order",
        "source",
        "trace.jsonl",
    ]


def test_the_text_of_a_program_that_never_went_on_goes(killed: Path, key: SigningKey, trusted: TrustStore) -> None:
    """Killed between keeping the changed program's text and writing the resume event, or while it was being kept."""
    for folder in ("source-2/parts/inner", ".source-2.77.tmp/parts"):
        (killed / folder).mkdir(parents=True)
        (killed / folder / "model.py").write_bytes(b"never ran")
    assert verify(killed, trusted=trusted).exit_status == 4
    done = close(killed, key)
    assert "removed source-2, which was left half-written" in done
    assert codes(killed, trusted) == (0, {"MA822"})
    assert not list(killed.glob("*source-2*"))
    assert (killed / "source/parts/model.py").read_bytes() == b"model"


def test_a_whole_anchor_is_adopted_and_a_lost_one_is_not(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Anchored(Killed):
        store_last = False

        def train(self) -> None:
            super().train()
            place = {"step": 5, "pass": 2, "epoch": 1, "position": 2, "at": "step", "enter": "epochs"}
            self.write_anchor("anchors/step-000005", place)

    run = Anchored(tmp_path / "run", key=key).build()
    lost = Path(shutil.copytree(run, tmp_path / "lost"))
    assert "entered anchors/step-000005, which was whole, into the trace" in close(run, key)
    assert codes(run, trusted) == (0, {"MA822"})
    assert verify(run, trusted=trusted).summary["anchors"] == [0, 3, 5]
    shutil.rmtree(lost / "anchors/step-000005")
    assert "the anchor at step 5 was not on the disk yet: it is lost" in close(lost, key)
    assert codes(lost, trusted) == (0, {"MA822", "MA304"})


def test_an_anchor_of_another_state_is_not_adopted(tmp_path: Path, key: SigningKey) -> None:
    class Changed(Killed):
        store_last = False

        def train(self) -> None:
            super().train()
            place = {"step": 5, "pass": 2, "epoch": 1, "position": 2, "at": "step", "enter": "epochs"}
            self.weight = self.weight + np.float32(1)
            self.write_anchor("anchors/step-000005", place)

    with pytest.raises(MemauditError, match="not the state that the trace gives"):
        close(Changed(tmp_path / "run", key=key).build(), key)


def test_an_anchor_that_was_being_dropped_goes(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Dropping(Killed):
        def train(self) -> None:
            super().train()
            self.append("dropped", {"path": "anchors/step-000000"})
            (self.root / "anchors/step-000000/values.json").unlink()

    run = Dropping(tmp_path / "run", key=key).build()
    assert codes(run, trusted) == (4, {"MA808", "MA821"})
    close(run, key)
    assert codes(run, trusted) == (0, {"MA822"})
    assert not (run / "anchors/step-000000").exists()


def test_a_run_that_ended_and_was_not_signed_keeps_its_end(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    run = RunBuilder(tmp_path / "run", key=key).build()
    (run / "manifest.json").unlink()
    assert close(run, key) == [f"signed the run with {key.keyid}"]
    assert codes(run, trusted) == (0, set())
    assert verify(run, trusted=trusted).summary["status"] == "completed"


def test_closing_can_be_killed_anywhere(killed: Path, key: SigningKey, trusted: TrustStore, tmp_path: Path) -> None:
    (killed / "anchors/.step-000006.77.tmp").mkdir()
    with (killed / "trace.jsonl").open("ab") as trace:
        trace.write(b"{")
    (tmp_path / "key.pem").write_bytes(key.private_pem())
    # Kill at the nth call that changes the directory, then close again.
    program = (
        "import os, sys; from pathlib import Path\n"
        "from auditor.evidence.keys import load_private\n"
        "from auditor.evidence.unfinished import Unfinished\n"
        "left = int(sys.argv[3])\n"
        "def audit(event, arguments):\n"
        "    global left\n"
        "    changes = event in ('os.remove', 'os.rename', 'os.rmdir', 'os.truncate', 'os.mkdir') or (\n"
        "        event == 'open' and isinstance(arguments[1], str) and arguments[1][:1] in 'wax')\n"
        "    if changes and sys.argv[1] in str(arguments[0]):\n"
        "        left -= 1\n"
        "        if left < 0: os._exit(9)\n"
        "sys.addaudithook(audit)\n"
        "Unfinished.open(Path(sys.argv[1])).close(load_private(Path(sys.argv[2])))\n"
    )
    reached = 0
    for number in range(40):
        copy = Path(shutil.copytree(killed, tmp_path / f"copy-{number}"))
        words = [sys.executable, "-c", program, str(copy), str(tmp_path / "key.pem"), str(number)]
        status = subprocess.run(words, capture_output=True).returncode
        if status == 0:
            break
        assert status == 9
        reached += 1
        if not (copy / "manifest.json").exists():
            close(copy, key)
        assert codes(copy, trusted) == (0, {"MA822"}), number
    assert reached >= 6


def test_a_run_that_is_still_written_is_refused(killed: Path, key: SigningKey) -> None:
    program = (
        "import sys, time; from pathlib import Path; from auditor.artifact.trace import TraceWriter\n"
        "writer = TraceWriter.reopen(Path(sys.argv[1]), '0' * 64, 0)\n"
        "print('open', flush=True); time.sleep(60)\n"
    )
    words = [sys.executable, "-c", program, str(killed / "trace.jsonl")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(MemauditError, match="still being recorded"):
            close(killed, key)
        process.kill()
    close(killed, key)


def test_a_writer_goes_on_in_the_chain(killed: Path, key: SigningKey, trusted: TrustStore) -> None:
    unfinished = Unfinished.open(killed)
    unfinished.tidy()
    with unfinished.writer() as trace:
        place = {"step": 3, "pass": 2, "position": 0, "from": "anchors/step-000003"}
        trace.append("resume", {**place, "abandoned": 2, "environment": None})
    found = verify(killed, trusted=trusted)
    assert {finding.code for finding in found.findings} == {"MA808", "MA823"}
    assert found.summary["steps"] == 3


def test_a_writer_does_not_go_on_in_what_it_has_not_read(killed: Path) -> None:
    unfinished = Unfinished.open(killed)
    with (killed / "trace.jsonl").open("ab") as trace:
        trace.write(b"{}\n")
    with pytest.raises(MemauditError, match="has changed"):
        unfinished.writer()


def test_nothing_to_close(tmp_path: Path) -> None:
    with pytest.raises(NothingToAuditError):
        Unfinished.open(tmp_path)
    TraceWriter(tmp_path / "trace.jsonl").close()
    with pytest.raises(NothingToAuditError):
        Unfinished.open(tmp_path)
