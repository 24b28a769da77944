"""Whatever is changed in a real run is found and named by the real command."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.support.programs import memaudit, recorded


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("original"), "--anchor-every", "5")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def findings(run: Path) -> str:
    answer = memaudit("verify", run, "--json", cwd=run.parent)
    assert "Traceback" not in answer.stderr
    assert answer.returncode == 1, answer.stdout
    document = json.loads(answer.stdout)
    assert document["verdict"] == "failed"
    return json.dumps(document["findings"])


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(run: Path) -> None:
    files = sorted(path for path in run.rglob("*") if path.is_file())
    assert {"manifest.json", "trace.jsonl", "environment.json", "values.json", "tensors.safetensors"} <= {
        path.name for path in files
    }
    dice = random.Random(0)
    for path in files:
        data = path.read_bytes()
        place = dice.randrange(len(data))
        changed = bytearray(data)
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        assert path.relative_to(run).as_posix() in findings(run), (path, place)
        path.write_bytes(data)


def test_a_file_added_is_found(run: Path) -> None:
    (run / "anchors" / ".hidden").write_text("")
    assert "anchors/.hidden" in findings(run)


def test_a_file_removed_is_found(run: Path) -> None:
    (run / "order" / "pass-000002.npy").unlink()
    assert "order/pass-000002.npy" in findings(run)


def test_a_file_renamed_is_found(run: Path) -> None:
    (run / "order" / "pass-000002.npy").rename(run / "order" / "pass-000009.npy")
    found = findings(run)
    assert "order/pass-000002.npy" in found
    assert "order/pass-000009.npy" in found


def test_a_trace_cut_short_is_found(run: Path) -> None:
    trace = run / "trace.jsonl"
    trace.write_bytes(trace.read_bytes()[:-40])
    assert "trace.jsonl" in findings(run)


def test_a_run_without_its_manifest_is_never_a_pass(run: Path) -> None:
    (run / "manifest.json").unlink()
    assert memaudit("verify", run, cwd=run.parent).returncode == 4


def test_a_stranger_sees_who_signed_and_gets_status_4(run: Path, tmp_path: Path) -> None:
    answer = memaudit("verify", run, cwd=tmp_path, MEMAUDIT_HOME=str(tmp_path / "stranger"))
    assert answer.returncode == 4
    assert "--key" in answer.stdout


def test_nothing_to_audit(tmp_path: Path) -> None:
    answer = memaudit("verify", tmp_path, cwd=tmp_path)
    assert answer.returncode == 3
    assert "Traceback" not in answer.stderr
