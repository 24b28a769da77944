from pathlib import Path
from typing import Any

import pytest

from auditor.errors import MemauditError
from auditor.recorder import settings as names
from auditor.recorder.settings import Settings, is_off


def resolve(**arguments: Any) -> Settings:
    given = {"seed": None, "anchor_every": None, "leaves_every": None, "order": "ids", "key": None, **arguments}
    return Settings.resolve("run", **given)


def test_what_the_call_says_holds() -> None:
    found = resolve(seed=3, anchor_every=10, leaves_every=5, order="hash", key="k.pem")
    expected = Settings(Path("run"), 3, "auditor.record(seed=…)", 10, 5, "hash", Path("k.pem"))
    assert found == expected
    assert found.seal_every == 100


def test_the_command_line_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {names.OUT: "other", names.SEED: "0", names.ANCHOR_EVERY: "7", names.LEAVES_EVERY: "8"}
    for name, value in {**given, names.ORDER: "hash", names.KEY: "c.pem"}.items():
        monkeypatch.setenv(name, value)
    found = resolve(seed=3, anchor_every=10, leaves_every=5, key="k.pem")
    assert found == Settings(Path("other"), 0, "memaudit record --seed", 7, 8, "hash", Path("c.pem"))


@pytest.mark.parametrize(
    "arguments",
    [{"seed": -1}, {"seed": 2**63}, {"anchor_every": 0}, {"leaves_every": -3}, {"order": "none"}],
    ids=lambda value: None if "0x" in repr(value) else ascii(value),
)
def test_what_makes_no_sense_is_refused_with_what_would(arguments: dict[str, Any]) -> None:
    with pytest.raises(MemauditError) as caught:
        resolve(**arguments)
    assert caught.value.next_step


@pytest.mark.parametrize(("value", "off"), [("off", True), ("OFF", True), ("on", False), ("", False)])
def test_memaudit_can_be_off(monkeypatch: pytest.MonkeyPatch, value: str, off: bool) -> None:
    monkeypatch.setenv(names.OFF, value)
    assert is_off() is off


@pytest.mark.parametrize(
    ("called", "commanded", "kept"),
    [(True, None, True), (False, None, False), (True, "off", False), (False, "on", True), (True, "OFF", False)],
)
def test_the_programs_text_is_kept_unless_somebody_says_no(
    monkeypatch: pytest.MonkeyPatch, called: bool, commanded: str | None, kept: bool
) -> None:
    if commanded is not None:
        monkeypatch.setenv(names.SOURCES, commanded)
    assert resolve(sources=called).sources is kept


def test_another_word_than_on_or_off_never_keeps_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(names.SOURCES, "no")
    with pytest.raises(MemauditError, match="neither on nor off") as caught:
        resolve()
    assert caught.value.where == "$MEMAUDIT_SOURCES"
