from __future__ import annotations

import signal

import pytest

from auditor.errors import MemauditError
from auditor.replay.executors import process_memory
from auditor.replay.executors.limits import Ended, Limits


@pytest.mark.parametrize("values", [{"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}, {"memory": 0}])
def test_a_limit_that_nothing_could_keep_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(MemauditError, match="must be more than 0"):
        Limits(**values)  # type: ignore[arg-type]


def test_a_memory_limit_is_refused_where_the_system_does_not_tell_what_a_process_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(process_memory, "_PROC", tmp_path)
    with pytest.raises(MemauditError, match="memory cannot be limited here"):
        Limits(memory=2**30)
    assert Limits(timeout=1.0).memory is None


def test_no_limit_is_ever_exceeded() -> None:
    assert Limits().exceeded(1e9, [1]) is None


def test_a_cell_is_over_its_time_from_the_limit_on() -> None:
    limits = Limits(timeout=2.5)
    assert limits.exceeded(2.49, []) is None
    assert limits.exceeded(2.5, []) == "it took longer than 2.5 s"


def test_a_process_that_came_to_its_own_end_was_not_killed_whatever_its_status() -> None:
    assert Ended(0).killed is None
    assert Ended(7).killed is None


def test_a_killed_process_is_told_with_its_signals_name_or_with_the_executors_reason() -> None:
    assert Ended(-signal.SIGSEGV).killed == "its process was killed by signal 11 (SIGSEGV)"
    assert Ended(-signal.SIGKILL).killed == "its process was killed by signal 9 (SIGKILL); often for want of memory"
    assert Ended(-40).killed == "its process was killed by signal 40"
    assert Ended(-9, "it took longer than 1 s").killed == "it took longer than 1 s"
