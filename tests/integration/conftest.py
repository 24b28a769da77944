from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> object:
    """No test signs with the user's own keys."""
    with pytest.MonkeyPatch.context() as patch:
        path: Path = tmp_path_factory.mktemp("home")
        patch.setenv("MEMAUDIT_HOME", str(path))
        patch.delenv("MEMAUDIT", raising=False)
        yield path
