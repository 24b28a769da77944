"""Fixtures for everything that signs or verifies: no test sees the user's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditor.evidence.keys import SigningKey, generate
from auditor.evidence.trust import TrustStore
from tests.support.build_run import RunBuilder


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MEMAUDIT_HOME", str(home))
    return home


@pytest.fixture
def key() -> SigningKey:
    return generate()


@pytest.fixture
def trusted(key: SigningKey) -> TrustStore:
    return TrustStore().add(key.public_der, "the author")


@pytest.fixture
def run(tmp_path: Path, key: SigningKey) -> Path:
    return RunBuilder(tmp_path / "run", key=key).build()
