import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from auditor.artifact import order_file
from auditor.artifact.resources import validator
from auditor.errors import MemauditError, NothingToAuditError
from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import Verification, verify
from tests.support.build_run import Event, RunBuilder


def codes(verification: Verification) -> set[str]:
    return {finding.code for finding in verification.findings if finding.level == "error"}


def named(verification: Verification) -> set[str]:
    return {finding.where.partition("#")[0] for finding in verification.findings}


def test_a_good_run_passes(run: Path, trusted: TrustStore) -> None:
    verification = verify(run, trusted=trusted)
    assert (verification.verdict, verification.exit_status, verification.findings) == ("passed", 0, ())
    what = {claim.what: str(claim.evidence) for claim in verification.claims}
    assert what["every file is the one that was signed"] == "proved"
    assert what["the run ended by itself"] == "attested"
    assert verification.summary["steps"] == 6
    validator("verify").validate(verification.to_json())


def test_a_stranger_is_inconclusive_and_nothing_is_attested(run: Path) -> None:
    verification = verify(run, trusted=TrustStore())
    assert (verification.verdict, verification.exit_status, codes(verification)) == ("inconclusive", 4, {"MA807"})
    assert not any(claim.evidence == "attested" for claim in verification.claims)


def test_rehashed_and_signed_by_a_stranger_is_inconclusive(run: Path, trusted: TrustStore, tmp_path: Path) -> None:
    forged = RunBuilder(tmp_path / "forged", key=generate()).build()
    assert verify(forged, trusted=trusted).exit_status == 4


@pytest.mark.parametrize("name", [".git/x", ".hidden", "empty", "anchors/step-000003/notes.txt"])
def test_an_added_file_is_named(run: Path, trusted: TrustStore, name: str) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"")
    verification = verify(run, trusted=trusted)
    assert verification.exit_status == 1
    assert "MA803" in codes(verification)
    assert name in named(verification)


def test_a_removed_file_is_named(run: Path, trusted: TrustStore) -> None:
    (run / "order/pass-000001.npy").unlink()
    verification = verify(run, trusted=trusted)
    assert {"MA802", "MA817"} <= codes(verification)
    assert "order/pass-000001.npy" in named(verification)


def test_a_renamed_file_is_told_as_both(run: Path, trusted: TrustStore) -> None:
    (run / "environment.json").rename(run / "environment2.json")
    verification = verify(run, trusted=trusted)
    assert {"MA802", "MA803"} <= codes(verification)
    added = next(finding for finding in verification.findings if finding.code == "MA803")
    assert "environment.json" in added.message


def test_two_swapped_files_are_both_named(run: Path, trusted: TrustStore) -> None:
    first, second = run / "order/pass-000001.npy", run / "order/pass-000002.npy"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    verification = verify(run, trusted=trusted)
    assert {"order/pass-000001.npy", "order/pass-000002.npy"} <= named(verification)


def test_links_fifos_and_empty_directories_are_findings(run: Path, trusted: TrustStore) -> None:
    (run / "link").symlink_to("/etc/passwd")
    os.mkfifo(run / "pipe")
    (run / "hollow").mkdir()
    verification = verify(run, trusted=trusted)
    assert {f.where for f in verification.findings if f.code == "MA804"} == {"link", "pipe", "hollow"}


def test_without_manifest_a_run_is_unfinished_and_its_seals_still_count(run: Path, trusted: TrustStore) -> None:
    (run / "manifest.json").unlink()
    verification = verify(run, trusted=trusted)
    assert (verification.exit_status, codes(verification)) == (4, {"MA808"})
    assert any("sealed" in claim.what and claim.evidence == "attested" for claim in verification.claims)


def test_an_anchor_that_was_being_written_when_the_run_was_killed_is_no_contradiction(
    run: Path, trusted: TrustStore
) -> None:
    (run / "manifest.json").unlink()
    (run / "anchors/.step-000108.1695.tmp").mkdir()
    (run / "anchors/.step-000109.1695.tmp").mkdir()
    (run / "anchors/.step-000109.1695.tmp/.tensors.safetensors.1695.tmp").write_bytes(b"half")
    (run / "probe").mkdir()
    verification = verify(run, trusted=trusted)
    assert (verification.exit_status, codes(verification)) == (4, {"MA808"})
    assert len([finding for finding in verification.findings if finding.code == "MA821"]) == 3


def test_a_half_written_file_in_a_signed_run_is_a_contradiction(run: Path, trusted: TrustStore) -> None:
    (run / "anchors/.step-000108.1695.tmp").mkdir()
    (run / ".trace.jsonl.7.tmp").write_bytes(b"")
    verification = verify(run, trusted=trusted)
    assert (verification.exit_status, codes(verification)) == (1, {"MA803", "MA804"})


def test_a_run_cut_back_to_a_seal_never_passes(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    run = RunBuilder(tmp_path / "cut", key=key).build(finish=False)
    assert verify(run, trusted=trusted).exit_status == 4


def test_a_last_line_cut_short_loses_nothing_before_it(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    run = RunBuilder(tmp_path / "cut", key=key).build(finish=False)
    data = (run / "trace.jsonl").read_bytes()
    (run / "trace.jsonl").write_bytes(data[:-20])
    verification = verify(run, trusted=trusted)
    assert (verification.exit_status, codes(verification)) == (4, {"MA808", "MA809"})
    assert verification.summary["steps"] == 6
    assert any("unbroken" in claim.what for claim in verification.claims)


def test_an_unfinished_run_whose_chain_is_broken_fails(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    run = RunBuilder(tmp_path / "cut", key=key).build(finish=False)
    lines = (run / "trace.jsonl").read_bytes().splitlines(keepends=True)
    (run / "trace.jsonl").write_bytes(b"".join(lines[:4] + lines[5:]))
    verification = verify(run, trusted=trusted)
    assert verification.exit_status == 1
    assert "MA810" in codes(verification)


# Runs that were made up consistently, hashed and signed: only their content gives them away.


def lie(tmp_path: Path, key: SigningKey, event: str, **changes: object) -> Path:
    def edit(written: Event) -> None:
        if written["event"] == event:
            written.update(changes)

    return RunBuilder(tmp_path / "lie", key=key, edit=edit).build()


def test_a_step_with_other_ids_than_the_order_file(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    assert "MA201" in codes(verify(lie(tmp_path, key, "step", ids="A" * 22), trusted=trusted))


def test_a_pass_with_other_counts(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    assert codes(verify(lie(tmp_path, key, "pass", samples=11), trusted=trusted)) == {"MA203"}


def test_an_anchor_of_another_state(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    digests = {"params": "A" * 22, "optimizer.momentum_buffer": "A" * 22}
    verification = verify(lie(tmp_path, key, "anchor", sources=digests), trusted=trusted)
    assert codes(verification) == {"MA302"}
    assert any("optimizer.momentum_buffer" in finding.message for finding in verification.findings)


def test_an_anchor_that_lacks_a_source(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    def edit(event: Event) -> None:
        if event["event"] == "anchor":
            del event["sources"]["params"]

    run = RunBuilder(tmp_path / "lie", key=key, edit=edit).build()
    assert {"MA301", "MA303"} <= codes(verify(run, trusted=trusted))


def test_an_anchor_of_another_moment(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    assert codes(verify(lie(tmp_path, key, "anchor", epoch=7), trusted=trusted)) == {"MA303"}


def test_a_seal_that_does_not_hold(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    assert "MA812" in codes(verify(lie(tmp_path, key, "seal", keyid="0" * 64), trusted=trusted))


def test_steps_that_do_not_count_up(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    assert "MA815" in codes(verify(lie(tmp_path, key, "step", step=1), trusted=trusted))


def test_a_manifest_that_disagrees_with_the_trace(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    assert codes(verify(lie(tmp_path, key, "start", seed="1"), trusted=trusted)) == {"MA813"}


def test_an_order_that_breaks_its_contract(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Twice(RunBuilder):
        def walk(self, number: int) -> None:
            class Draw:
                def permutation(self, size: int) -> np.ndarray:
                    ids = np.arange(size)
                    ids[1] = 0
                    return ids

            self.random = Draw()  # type: ignore[assignment]
            super().walk(number)

    verification = verify(Twice(tmp_path / "lie", key=key).build(), trusted=trusted)
    assert codes(verification) == {"MA202"}
    assert {finding.found for finding in verification.findings} == {"id 0 twice or more", "11"}


def test_hashes_only_is_a_note(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    verification = verify(RunBuilder(tmp_path / "run", key=key, order="hash").build(), trusted=trusted)
    assert verification.verdict == "passed"
    assert [finding.code for finding in verification.findings] == ["MA204"]


def test_an_order_file_of_another_form_is_named(tmp_path: Path, run: Path, trusted: TrustStore) -> None:
    order_file.write(run / "order/pass-000001.npy", np.arange(12))
    verification = verify(run, trusted=trusted)
    assert {"MA801", "MA817", "MA201", "MA203"} - codes(verification) <= {"MA203"}


def test_a_pickle_is_named_and_not_opened(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class WithPickle(RunBuilder):
        def seal(self) -> None:
            super().seal()
            self.write("model.pt", b"\x80\x04cos\nsystem\n")

    verification = verify(WithPickle(tmp_path / "run", key=key).build(), trusted=trusted)
    assert verification.verdict == "passed"
    assert [(finding.code, finding.where) for finding in verification.findings] == [("MA819", "model.pt")]


def test_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(NothingToAuditError):
        verify(tmp_path)
    with pytest.raises(MemauditError):
        verify(tmp_path / "absent")


def test_findings_in_json_fit_the_schema(run: Path, trusted: TrustStore) -> None:
    shutil.rmtree(run / "anchors")
    document = verify(run, trusted=trusted).to_json()
    validator("verify").validate(json.loads(json.dumps(document)))
