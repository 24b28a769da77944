"""The kept text of the program: what verification says of it, and what a reader gets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.run_directory import MAX_SOURCE_FILE_BYTES, scan
from auditor.errors import MemauditError
from auditor.evidence.keys import SigningKey
from auditor.evidence.run_view import RunView
from auditor.evidence.source_texts import read_source_texts
from auditor.evidence.trust import TrustStore
from auditor.evidence.verify import Verification, verify
from tests.support.build_run import LATER, PROGRAM, Event, RunBuilder
from tests.unit.evidence.test_cuts import Cut

CLAIM = "the program's text is the one whose hash was recorded"


def claimed(verification: Verification) -> list[str]:
    return [f"{claim.evidence}: {claim.message}" for claim in verification.claims if claim.what == CLAIM]


def wrong(verification: Verification) -> dict[str, str]:
    """Where MA403 found something, and how it is classed."""
    return {finding.where: str(finding.evidence) for finding in verification.findings if finding.code == "MA403"}


class Elsewhere(Cut):
    """Cut, and gone on with on another machine with another ``parts/model.py``."""

    torch = "2.14.0"


def test_kept_text_as_recorded_is_proved(run: Path, trusted: TrustStore) -> None:
    verification = verify(run, trusted=trusted)
    assert verification.findings == ()
    assert claimed(verification) == ["proved: 3 files, SHA-256 recomputed"]
    view = RunView.open(run)
    found = view.source_texts()
    assert (found.files, found.misfits) == (PROGRAM, ())
    assert next(iter(found.hashes)) == "train.py"


def test_what_was_not_kept_is_named_and_nothing_is_missing(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    class Partly(RunBuilder):
        def kept(self) -> list[str]:
            return ["parts/model.py"]

    run = Partly(tmp_path / "run", key=key).build()
    verification = verify(run, trusted=trusted)
    assert verification.findings == ()
    assert claimed(verification) == ["proved: 1 file, SHA-256 recomputed; not kept: train.py, parts/__init__.py"]
    assert RunView.open(run).source_texts().files == {"parts/model.py": b"model"}


def test_a_run_that_keeps_no_text_claims_nothing_of_it(tmp_path: Path, key: SigningKey, trusted: TrustStore) -> None:
    class Secret(RunBuilder):
        def kept(self) -> list[str]:
            return []

    run = Secret(tmp_path / "run", key=key).build()
    assert not (run / "source").exists()
    verification = verify(run, trusted=trusted)
    assert (verification.verdict, verification.findings, claimed(verification)) == ("passed", (), [])


def changed(run: Path) -> str:
    (run / "source/parts/model.py").write_bytes(b"lodel")
    return "source/parts/model.py"


def taken(run: Path) -> str:
    (run / "source/train.py").unlink()
    return "source/train.py"


def added(run: Path) -> str:
    (run / "source/parts/extra.py").write_bytes(b"")
    return "source/parts/extra.py"


def too_large(run: Path) -> str:
    (run / "source/train.py").write_bytes(b"#" * (MAX_SOURCE_FILE_BYTES + 1))
    return "source/train.py"


def of_no_environment(run: Path) -> str:
    (run / "source-2").mkdir()
    (run / "source-2/train.py").write_bytes(b"train")
    return "source-2/train.py"


TAMPERINGS = [changed, taken, added, too_large]


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unfinished"])
@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda each: each.__name__)
def test_tampered_text_is_named(
    tmp_path: Path, key: SigningKey, trusted: TrustStore, tamper: Callable[[Path], str], signed: bool
) -> None:
    run = RunBuilder(tmp_path / "run", key=key).build(finish=signed)
    where = tamper(run)
    verification = verify(run, trusted=trusted)
    assert verification.exit_status == 1
    assert wrong(verification) == {where: "missing" if tamper is taken else "contradicted"}
    assert claimed(verification) == []
    texts = RunView.open(run).source_texts()
    assert [misfit.where for misfit in texts.misfits] == [where]
    assert set(texts.files) == set(PROGRAM) - {where.removeprefix("source/")}


class Resigned(RunBuilder):
    """Whoever has the key exchanges a file before signing: only its hash in environment.json gives it away."""

    tamper: Callable[[Path], str]

    def sign(self) -> None:
        type(self).tamper(self.root)
        super().sign()


@pytest.mark.parametrize(
    "tamper", [changed, taken, added, too_large, of_no_environment], ids=lambda each: each.__name__
)
def test_text_exchanged_before_signing_is_found(
    tmp_path: Path, key: SigningKey, trusted: TrustStore, tamper: Callable[[Path], str]
) -> None:
    kind = type("Tampered", (Resigned,), {"tamper": staticmethod(tamper)})
    verification = verify(kind(tmp_path / "run", key=key).build(), trusted=trusted)
    assert {finding.code for finding in verification.findings} == {"MA403"}
    assert len(wrong(verification)) == 1
    assert verification.exit_status == 1


def test_text_of_an_environment_that_no_event_names_is_passed_over_in_an_unfinished_run(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    run = RunBuilder(tmp_path / "run", key=key).build(finish=False)
    of_no_environment(run)
    verification = verify(run, trusted=trusted)
    assert (verification.exit_status, wrong(verification)) == (4, {})
    assert claimed(verification) == ["proved: 3 files, SHA-256 recomputed"]


def test_a_run_that_went_on_with_another_program_keeps_both(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    run = Elsewhere(tmp_path / "run", key=key).build()
    assert claimed(verify(run, trusted=trusted)) == ["proved: 6 files, SHA-256 recomputed"]
    view = RunView.open(run)
    assert view.source_texts().files == PROGRAM
    assert view.source_texts("environment-2.json").files == LATER
    shutil.copy(run / "source/parts/model.py", run / "source-2/parts/model.py")
    assert wrong(verify(run, trusted=trusted)) == {"source-2/parts/model.py": "contradicted"}


@pytest.mark.parametrize(
    "changes",
    [
        {"kept": ["../outside", "parts/__init__.py", "parts/model.py", "train.py"]},
        {"kept": ["train.py", "parts/model.py", "parts/__init__.py"]},
        {"kept": ["parts/__init__.py", "parts/model.py", "train.py", "train.py"]},
        {"modules": {"../outside": "0" * 64, "train.py": "0" * 64}},
        {"path": None},
    ],
    ids=["leaves the folder", "out of order", "twice", "a module with the program's name", "no program"],
)
def test_an_environment_that_names_what_cannot_be(
    tmp_path: Path, key: SigningKey, trusted: TrustStore, changes: dict[str, Any]
) -> None:
    class Lying(RunBuilder):
        def environment(self, *arguments: Any) -> Event:
            content = super().environment(*arguments)
            content["program"].update(changes)
            return content

    (tmp_path / "outside").write_bytes(b"secret")
    run = Lying(tmp_path / "run", key=key).build()
    verification = verify(run, trusted=trusted)
    assert verification.exit_status == 1
    assert any(where.startswith("environment.json#/program/") for where in wrong(verification))
    texts = RunView.open(run).source_texts()
    assert texts.misfits
    assert set(texts.files) <= set(PROGRAM)


def test_an_environment_of_another_form_is_a_plain_error(run: Path) -> None:
    (run / "environment.json").write_bytes(b'{"program":{"kept":7}}\n')
    with pytest.raises(MemauditError):
        RunView.open(run).source_texts()
    with pytest.raises(MemauditError):
        RunView.open(run).source_texts("environment-2.json")


NAMES = st.text("ax./\\:\n", max_size=8) | st.sampled_from([*PROGRAM, "..", "a/../b", "", "parts"])
SHA256 = st.sampled_from(["0" * 64, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunBuilder(tmp_path_factory.mktemp("built") / "run").build()


@settings(deadline=None)
@given(
    path=st.none() | NAMES,
    sha256=st.none() | SHA256,
    modules=st.dictionaries(NAMES, SHA256, max_size=4),
    kept=st.lists(NAMES, max_size=4),
)
def test_whatever_an_environment_names_only_files_with_its_hashes_are_given_out(
    built: Path, path: str | None, sha256: str | None, modules: dict[str, str], kept: list[str]
) -> None:
    program = {"path": path, "sha256": sha256, "modules": modules, "kept": kept}
    texts = read_source_texts(scan(built), "environment.json", program)
    for name, data in texts.files.items():
        assert name in kept
        assert PROGRAM[name] == data == b""  # the only one whose hash was drawn
    assert texts.misfits, "the files that lie there are not all named as they are"


def test_text_kept_under_a_temporary_name_would_be_removed_as_half_written_so_none_is(
    tmp_path: Path, key: SigningKey, trusted: TrustStore
) -> None:
    class Odd(RunBuilder):
        def environment(self, *arguments: Any) -> Event:
            content = super().environment(*arguments)
            content["program"]["modules"][".x.7.tmp/y.py"] = "0" * 64
            content["program"]["kept"] = [".x.7.tmp/y.py"]
            return content

        def kept(self) -> list[str]:
            return []

    verification = verify(Odd(tmp_path / "run", key=key).build(finish=False), trusted=trusted)
    assert wrong(verification) == {"environment.json#/program/kept": "contradicted"}
