"""A signed study directory written from docs/study.md alone, small and in every check consistent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from auditor.evidence.keys import SigningKey
from auditor.evidence.manifest import STUDY, write_manifest
from tests.support.build_run import canonical


def signed_study(
    root: Path, key: SigningKey, *, units: int = 8, verdict: str = "effect", plan_sha256: str | None = None
) -> Path:
    """Write a study of one arm whose treated outcome is the control's plus one, and a bit more for each unit."""
    root.mkdir(parents=True)
    seeds = list(range(units))
    do = [{"source": "optimizer", "do": "reset"}]
    plan = {
        "format": "plan-1",
        "forks": [{"run": "run", "at": 3}],
        "arms": [{"name": "reset", "do": do}],
        "horizons": [5],
        "units": {"kind": "fork", "seeds": seeds},
        "outcomes": ["nll"],
        "margins": {},
        "probes": None,
        "level": 0.95,
        "family": "plan",
        "looks": [],
        "reach": "auto",
        "executor": {"kind": "forkserver", "jobs": None, "timeout": None, "memory": None, "attempts": 3},
        "seed": 0,
    }
    text = canonical(plan) + b"\n"
    (root / "plan.json").write_bytes(text)
    control = [0.5 + 0.01 * seed for seed in seeds]
    treated = [1.5 + 0.02 * seed for seed in seeds]
    differences = [after - before for before, after in zip(control, treated, strict=True)]
    row: dict[str, Any] = {
        "fork": 0,
        "arm": "reset",
        "estimand": "signed ATE",
        "probe": "p",
        "outcome": "nll",
        "horizon": 5,
        "units": seeds,
        "differences": differences,
        "control": control,
        "treated": treated,
        "estimate": sum(differences) / len(differences),
        "interval": [0.9, 1.2],
        "interval_method": "paired t",
        "level": 0.95,
        "p_value": 0.01,
        "adjusted_p_value": 0.01,
        "verdict": verdict,
        "sentence": "nll rises by 1.",
        "warnings": [],
    }
    estimate = {
        "format": "estimate-1",
        "verdict": "complete",
        "plan": {"sha256": plan_sha256 or hashlib.sha256(text).hexdigest()},
        "units": "fork",
        "conditional": "conditional on this anchor",
        "look": {"number": 1, "looks": 1, "units": units, "of": units, "level": 0.95},
        "forks": [
            {
                "run": {"path": "run", "manifest_sha256": "0" * 64, "trace_head": "0" * 64},
                "at": 3,
                "reach": {"way": "restore", "anchor": "anchors/step-000003", "refused": []},
                "verdict": "complete",
                "gate": {"verdict": "passed", "steps": 5, "numerics": "same", "first": None, "causes": []},
                "nulls": [{"name": "carry/carry", "verdict": "passed", "message": "equal"}],
                "arms": [
                    {
                        "name": "reset",
                        "do": do,
                        "desynchronised": [],
                        "receipts": {"applied": units, "not_applied": 0, "examples": []},
                    }
                ],
            }
        ],
        "estimates": [row],
        "findings": [],
    }
    for seed, before, after in zip(seeds, control, treated, strict=True):
        _cell(root, "carry", seed, before)
        _cell(root, "reset", seed, after)
    (root / "estimate.json").write_bytes(canonical(estimate) + b"\n")
    predicate = {
        "format": "study-1",
        "verdict": "complete",
        "plan_sha256": hashlib.sha256(text).hexdigest(),
        "runs": [fork["run"] for fork in estimate["forks"]],
        "cells": 2 * units,
    }
    write_manifest(root, STUDY, predicate, key)
    return root


def _cell(root: Path, arm: str, unit: int, value: float) -> None:
    place = {"path": "anchors/step-000003", "step": 3, "pass": 2, "epoch": 1, "position": 0, "at": "pass"}
    description = {
        "format": "cell-1",
        "memaudit": "0.1.0",
        "run": {"manifest": "0" * 64},
        "program": {"sha256": "0" * 64, "argv": [], "modules": {}},
        "seed": "0",
        "threads": 1,
        "interop_threads": 1,
        "reach": "restore",
        "anchor": {**place, "files": {"tensors.safetensors": "0" * 64, "values.json": "0" * 64}},
        "fork": {"at": 3, "where": "pass", "before": 2},
        "arm": arm,
        "do": [] if arm == "carry" else [{"source": "optimizer", "do": "reset"}],
        "unit": unit,
        "key": f"0/{unit}",
        "repeat": 0,
        "horizons": [5],
    }
    text = canonical(description) + b"\n"
    directory = root / "cells" / hashlib.sha256(text).hexdigest()
    directory.mkdir(parents=True)
    (directory / "cell.json").write_bytes(text)
    result = {
        "format": "cell-result-1",
        "status": "finished",
        "error": None,
        "arm": arm,
        "unit": unit,
        "horizons": {"5": {"p": {"nll": value}}},
        "probes": {"p": {"inputs": "A" * 22, "targets": None, "size": 4, "kind": "none"}},
        "receipts": [],
        "fork": {"rekeyed": {}, "order_kept": None, "absent_streams": []},
        "streams": {},
        "given": {},
        "numerics": {},
    }
    (directory / "result.json").write_bytes(canonical(result) + b"\n")
