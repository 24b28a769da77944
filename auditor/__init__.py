"""memaudit: the flight recorder, examiner and microscope for what PyTorch training remembers.

The public names are imported lazily, so that reading evidence never imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.adapters.explicit import Run, record
    from auditor.errors import MemauditError
    from auditor.recorder.keyed import KeyedDataset

__version__ = "0.1.0"
__all__ = ["KeyedDataset", "MemauditError", "Run", "__version__", "record"]

try:
    STARTED_IN: str | None = str(Path.cwd())
    """The directory when this was first imported: programs like to change theirs before they record."""
except OSError:  # it is gone
    STARTED_IN = None

_HOMES = {
    "record": "auditor.adapters.explicit",
    "Run": "auditor.adapters.explicit",
    "KeyedDataset": "auditor.recorder.keyed",
    "MemauditError": "auditor.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
