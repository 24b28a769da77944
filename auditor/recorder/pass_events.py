"""What the trace says of a pass: where it begins, and where it ends (docs/run-directory.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from auditor.artifact.windows import multiset, window_multisets
from auditor.recorder.order import Walk
from auditor.recorder.passes import Pass

Ids = np.ndarray[tuple[int], np.dtype[np.int64]]


def iter_members(new: Pass) -> dict[str, Any]:
    """Return the ``iter`` event's members, its streams' digests aside."""
    loader = None if new.walk is None else new.walk.loader
    workers = None
    if isinstance(loader, DataLoader) and loader.num_workers:
        init = loader.worker_init_fn
        workers = {
            "count": loader.num_workers,
            "persistent": loader.persistent_workers,
            "init": None if init is None else getattr(init, "__qualname__", type(init).__qualname__),
        }
    seed = None if new.walk is None else new.walk.base_seed
    return {
        "pass": new.number,
        "epoch": new.epoch,
        "loader": new.loader,
        "policy": None if new.walk is None else new.walk.policy,
        "base_seed": None if seed is None else str(seed),
        "workers": workers,
    }


def known_ids(old: Pass) -> Ids | None:
    """Return the sample ids that a pass consumed, int64 ``[samples]``; None where they are not known."""
    walk = old.walk
    known = walk is not None and walk.has_ids and (bool(walk.delivered) or old.position == 0)
    return np.asarray(walk.delivered, dtype=np.int64) if walk is not None and known else None


def pass_members(old: Pass, ids: Ids | None, *, last: int, complete: bool) -> dict[str, Any]:
    """Return the ``pass`` event's members, its order file aside.

    A pass without a walk is one that was in progress at a cut, and that the program did not come back to.
    """
    walk = old.walk
    members = {
        "pass": old.number,
        "epoch": old.epoch,
        "loader": old.loader,
        "first": old.first,
        "last": last,
        "batches": old.position,
        "samples": None if ids is None else len(ids),
        "complete": complete,
        "policy": None if walk is None else walk.policy,
        "multiset": None if ids is None else multiset(ids),
        "windows": None if ids is None or walk is None else _windows(ids, walk.lengths),
    }
    if old.resumed_at is not None:
        members["resumed"] = _resumed(old.resumed_at, walk, complete=complete)
    return members


def _windows(ids: Ids, lengths: Sequence[int]) -> dict[str, Any]:
    batches, multisets = window_multisets(ids, lengths)
    return {"batches": batches, "multisets": multisets}


def _resumed(position: int, walk: Walk | None, *, complete: bool) -> dict[str, Any]:
    """Return what a pass that went on after a cut did again and left out."""
    if walk is None or not walk.has_ids:
        return {"position": position, "repeated": None, "skipped": None}
    cut = sum(walk.lengths[:position])
    before, policy = set(walk.delivered[:cut]), walk.policy
    once = policy["kind"] in ("shuffled", "sequential") and not policy["replacement"] and not policy["drop_last"]
    seen = set(walk.delivered)
    told = once and complete and policy["length"] is not None and len(seen) <= policy["length"]
    return {
        "position": position,
        "repeated": sum(1 for sample in walk.delivered[cut:] if sample in before),
        "skipped": policy["length"] - len(seen) if told else None,
    }
