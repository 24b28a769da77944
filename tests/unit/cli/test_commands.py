import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.artifact.resources import validator
from auditor.cli import main
from auditor.evidence.keys import SigningKey
from auditor.evidence.trust import TrustStore


@pytest.fixture
def trusting(key: SigningKey) -> None:
    TrustStore.load().add(key.public_der, "the author").save()


@pytest.mark.usefixtures("trusting")
def test_verify_passes_and_names_the_next_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["verify", str(run)]) == 0
    out = capsys.readouterr().out.strip().splitlines()
    assert out[-2].startswith("passed: ")
    assert out[-1] == f"next: memaudit report {run} -o report.html"


@pytest.mark.parametrize("output", [["--json"], ["--format", "json"]])
def test_the_exit_status_does_not_depend_on_the_format(
    run: Path, output: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["verify", str(run)]) == 4
    capsys.readouterr()
    assert main.run(["verify", str(run), *output]) == 4
    document = json.loads(capsys.readouterr().out)
    validator("verify").validate(document)
    assert document["verdict"] == "inconclusive"


def test_a_key_given_is_trusted_for_once(run: Path, key: SigningKey, tmp_path: Path) -> None:
    (tmp_path / "author.pub").write_bytes(key.public_pem())
    assert main.run(["verify", str(run), "--key", str(tmp_path / "author.pub")]) == 0
    assert TrustStore.load().keys == ()


def test_exit_statuses(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "extra").write_bytes(b"")
    assert main.run(["verify", str(run)]) == 1
    assert main.run(["verify", str(tmp_path / "absent")]) == 2
    assert main.run(["verify"]) == 2
    assert main.run([]) == 2
    (tmp_path / "nothing").mkdir()
    assert main.run(["verify", str(tmp_path / "nothing")]) == 3
    assert main.run(["lint", str(tmp_path / "nothing")]) == 3
    monkeypatch.setattr("auditor.evidence.verify.verify", lambda *_, **__: 1 / 0)
    capsys.readouterr()
    assert main.run(["verify", str(run)]) == 5
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "MEMAUDIT_TRACEBACK=1" in error


def test_a_misspelt_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["verfy"]) == 2
    assert "did you mean verify?" in capsys.readouterr().err


def test_rule_lists_and_explains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["rule"]) == 0
    assert "MA302" in capsys.readouterr().out
    assert main.run(["rule", "MA302"]) == 0
    assert "How to mend it" in capsys.readouterr().out


def test_inspect_gives_the_census(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["inspect", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    validator("census").validate(document)
    assert document["sources"][0]["tensors"] == ["layer.weight"]
    assert document["sources"][0]["bytes"] == 24


def test_keys_from_making_to_removing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["key", "new", "--out", str(tmp_path / "k.pem"), "--algorithm", "ed25519"]) == 0
    keyid = capsys.readouterr().out.split()[0]
    assert main.run(["key", "new", "--out", str(tmp_path / "k.pem")]) == 2
    assert main.run(["key", "remove", keyid[:10]]) == 0
    assert main.run(["key", "trust", str(tmp_path / "k.pem.pub"), "--name", "lab"]) == 0
    capsys.readouterr()
    assert main.run(["key", "list"]) == 0
    assert capsys.readouterr().out.strip() == f"{keyid}  lab"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colour(
    run: Path,
    environment: dict[str, str],
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    main.run(["verify", str(run)])
    assert ("\x1b[" in capsys.readouterr().out) is coloured


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_begins_its_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert out.index("Examples:") < out.index("Options:")


def test_reading_evidence_imports_no_torch_and_help_is_quick(run: Path) -> None:
    program = (
        "import sys; from auditor.cli import main; "
        f"main.run(['verify', {str(run)!r}]); main.run(['lint', {str(run)!r}]); main.run(['inspect', {str(run)!r}]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
    fastest = 10.0
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "auditor.cli.main", "--help"], check=True, capture_output=True)
        fastest = min(fastest, time.perf_counter() - begin)
    assert fastest < 0.5
