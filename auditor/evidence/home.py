"""Where the user's own files are: signing keys and the list of trusted ones."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return memaudit's folder of the user: ``$MEMAUDIT_HOME``, else ``memaudit`` in the XDG configuration folder."""
    own = os.environ.get("MEMAUDIT_HOME")
    if own:
        return Path(own)
    config = os.environ.get("XDG_CONFIG_HOME")
    # The XDG specification tells programs to ignore a relative path here.
    base = Path(config) if config and Path(config).is_absolute() else Path.home() / ".config"
    return base / "memaudit"
