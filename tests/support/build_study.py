"""Small runs and studies in the documented formats, made without torch, for whoever reads them.

What the report needs to see, not what a real training would leave: digests are made up, and the tensors of anchors
are a few bytes. `build_run` of tests/support/build_run.py makes runs that verify.
"""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from auditor.artifact.canonical import write_canonical
from auditor.artifact.trace import TraceWriter
from auditor.causal.estimate import Arm, CellOutcome, build_rows

NUMERICS = {"device": "cpu", "isa": "AVX2", "threads": 1, "torch": "2.13.0", "deterministic": True}


def digest(text: str) -> str:
    """A made-up digest in the form of the format."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).rstrip(b"=").decode()


def run_for_report(path: Path, *, steps: int = 240, names: dict[str, str] | None = None, ended: bool = True) -> Path:
    """A run directory at `path`; `names` may replace names of sources, streams, probes and the program."""
    hostile = names or {}
    path.mkdir(parents=True)
    program = {"path": hostile.get("program", "train.py"), "sha256": "ab" * 32, "argv": ["train.py", "--epochs", "10"]}
    environment = {
        "format": "environment-1",
        "numerics": NUMERICS,
        "python": {"version": "3.11.9", "implementation": "CPython"},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6", "scikit-learn": "1.5.0"},
        "git": {"commit": "0123456789abcdef", "dirty": True, "diff_sha256": "cd" * 32},
        "hardware": {"cpu": "a processor", "memory_bytes": 137438953472},
        "program": {**program, "module": None, "modules": {}, "kept": [], "cwd": None},
        "flags": {"PYTHONHASHSEED": "0"},
    }
    data = write_canonical(path / "environment.json", environment)
    probe = hostile.get("probe", "held-out")
    (path / "probe").mkdir()
    probes = {probe: {"inputs": digest("inputs"), "targets": digest("targets"), "size": 360, "kind": "classification"}}
    write_canonical(
        path / "probe/probes.json", {"format": "probes-1", "probes": probes, "outcomes": ["nll", "accuracy"]}
    )
    sources = [
        ("params", "params", "the run", None, "in the weights"),
        (
            hostile.get("source", "optimizer.momentum_buffer"),
            "optimizer",
            "half-life",
            6.579,
            "hidden until the update",
        ),
        ("ema", "ema", "half-life", 692.8, "only through the averaged model"),
        ("bn", "bn", "half-life", 6.579, "changes evaluation"),
        ("scheduler", "scheduler", "the run", None, "hidden"),
    ]
    streams = [
        ("python", "--seed 0", ["augmentation"], []),
        (hostile.get("stream", "torch"), "--seed 0", ["dropout", "initialisation"], []),
        ("loader", "torch's global seed", ["sampler", "workers"], ["no generator of its own"]),
    ]
    with TraceWriter(path / "trace.jsonl") as trace:
        start = {"format": "trace-1", "digest": "xxh3-128-tree-1", "seed": "0", "program": program, "order": "ids"}
        trace.append("start", {**start, "environment": hashlib.sha256(data).hexdigest()})
        keys = ("name", "kind", "lifetime", "half_life", "visibility")
        stream_keys = ("name", "seeded_by", "consumers", "warnings")
        trace.append(
            "census",
            {
                "sources": [{**dict(zip(keys, s, strict=True)), "captured": True, "reason": None} for s in sources],
                "streams": [dict(zip(stream_keys, s, strict=True)) for s in streams],
            },
        )
        _anchor(trace, path, 0, "start", sources, streams)
        _steps(trace, path, steps, (sources, streams), probe)
        if ended:
            trace.append("end", {"status": "completed", "steps": steps})
    return path


def _anchor(trace: TraceWriter, path: Path, step: int, at: str, sources: list[Any], streams: list[Any]) -> None:
    folder = f"anchors/step-{step:06d}"
    (path / folder).mkdir(parents=True)
    tensors = bytes(range(256)) * 40
    (path / folder / "tensors.safetensors").write_bytes(tensors)
    event = {"step": step, "pass": None, "epoch": None, "position": None, "at": at, "enter": "epochs", "path": folder}
    event["sources"] = {s[0]: digest(f"{s[0]} {step}") for s in sources}
    event["streams"] = {s[0]: digest(f"{s[0]} {step}") for s in streams}
    trace.append("anchor", event)
    trace.append("stored", {"path": folder, "files": {"tensors.safetensors": hashlib.sha256(tensors).hexdigest()}})


def _steps(trace: TraceWriter, path: Path, steps: int, named: tuple[list[Any], list[Any]], probe: str) -> None:
    rng = np.random.default_rng(0)
    per_pass = max(1, steps // 10)
    policy = {"sampler": "RandomSampler", "kind": "shuffled", "replacement": False, "drop_last": False}
    for step in range(1, steps + 1):
        number, position = (step - 1) // per_pass + 1, (step - 1) % per_pass + 1
        if position == 1:
            begun = {"pass": number, "epoch": number - 1, "loader": 1, "base_seed": None, "workers": None}
            begun["policy"] = {**policy, "batch_size": 32, "length": per_pass * 32}
            trace.append("iter", {**begun, "streams": [None] * len(named[1])})
        loss = 2.3 * math.exp(-2.5 * step / steps) + 0.15 + 0.05 * float(rng.standard_normal())
        event = {"step": step, "pass": number, "position": position, "ids": digest(f"i{step}"), "loss": loss}
        event |= {"batch": digest(f"b{step}"), "sources": [None] * len(named[0]), "streams": [None] * len(named[1])}
        trace.append("step", event)
        if position == per_pass:
            one = {"pass": number, "epoch": number - 1, "first": step - per_pass + 1, "last": step, "batches": per_pass}
            one |= {"samples": per_pass * 32, "complete": True, "file": None, "sha256": "ef" * 32}
            one |= {"loader": 1, "windows": None}
            one["policy"] = {**policy, "batch_size": 32, "length": per_pass * 32}
            trace.append("pass", {**one, "multiset": digest("all")})
            _anchor(trace, path, step, "pass", *named)
            share = step / steps
            values = {"nll": 2.3 * math.exp(-2.2 * share) + 0.1, "accuracy": 1 - 0.9 * math.exp(-3 * share)}
            trace.append("outcome", {"step": step, "probe": probe, "values": values, "predictions": digest(f"p{step}")})


def cells(units: int = 20, *, horizons: tuple[int, ...] = (20, 60), probe: str = "held-out") -> list[CellOutcome]:
    """Cells of four arms: carry, one that raises NLL, one equal but for noise, and one that diverges."""
    rng = np.random.default_rng(1)
    made = []
    for unit in range(units):
        for horizon in horizons:
            base = rng.dirichlet(np.ones(10) * 0.3, size=60)
            nll = 0.42 + 0.05 * float(rng.standard_normal())
            made.append(CellOutcome("carry", unit, horizon, probe, {"nll": nll, "accuracy": 0.9}, base))
            for arm, shift, spread in (("reset momentum", 0.013, 0.008), ("reset ema", 0.0, 0.002)):
                noise = rng.dirichlet(np.ones(10), size=60)
                mixed = base * (1 - 0.02 * (shift > 0) - 0.002) + noise * (0.02 * (shift > 0) + 0.002)
                value = nll + shift * horizon / 60 + spread * float(rng.standard_normal())
                values = {"nll": value, "accuracy": 0.9 - 0.002 * float(rng.integers(0, 4) * (shift > 0))}
                made.append(CellOutcome(arm, unit, horizon, probe, values, mixed))
            bad = math.nan if unit == 3 else nll + 0.01
            made.append(CellOutcome("set lr", unit, horizon, probe, {"nll": bad, "accuracy": 0.5}, base))
    return made


def receipt(source: str, *, applied: bool = True) -> dict[str, Any]:
    """A receipt as docs/study.md has it."""
    return {
        "source": source,
        "do": "reset",
        "arguments": {},
        "applied": applied,
        "reason": None if applied else "the source is empty at this step",
        "tensors": 1,
        "norm_before": 3.1415 if applied else None,
        "norm_after": 0.0 if applied else None,
        "changed": 0.9987 if applied else 0.0,
        "digest_before": {"layer1.weight": digest("before")},
        "digest_after": {"layer1.weight": digest("after")},
        "at": 400,
        "steps_changed": None,
    }


def estimate_document(
    units: int = 20, *, names: dict[str, str] | None = None, verdict: str = "complete"
) -> dict[str, Any]:
    """An `estimate-1` document; `names` may replace the momentum arm's name, its source and the probe."""
    hostile = names or {}
    probe, first = hostile.get("probe", "held-out"), hostile.get("arm", "reset momentum")
    source = hostile.get("source", "optimizer.momentum_buffer")
    do: dict[str, list[dict[str, object]]] = {
        "carry": [],
        first: [{"source": source, "do": "reset"}],
        "reset ema": [{"source": "ema", "do": "reset"}],
        "set lr": [{"source": "hyper.lr", "do": "set", "value": 10}],
        "flush queue": [{"source": "queue", "do": "flush"}],
    }
    arms = [
        Arm(
            name,
            done,
            0 if name == "flush queue" else units,
            units if name == "flush queue" else 0,
            "the queue is empty",
        )
        for name, done in do.items()
    ]
    found = [
        CellOutcome(first if c.arm == "reset momentum" else c.arm, c.unit, c.horizon, c.probe, c.values, c.predictions)
        for c in cells(units, probe=probe)
    ]
    rows = build_rows(found, arms, horizons=(20, 60), margins={"nll": 0.005}, seed=0, at={0: "at step 120"})
    passed = verdict != "gate failed"
    return {
        "format": "estimate-1",
        "verdict": verdict,
        "plan": {"sha256": "12" * 32},
        "units": "fork",
        "conditional": "conditional on this anchor",
        "look": {"number": 1, "looks": 1, "units": units, "of": units, "level": 0.95},
        "forks": [
            {
                "run": {"path": "runs/digits", "manifest_sha256": None, "trace_head": None},
                "at": 120,
                "reach": {"way": "restore", "anchor": "anchors/step-000120", "refused": []},
                "verdict": verdict,
                "gate": {
                    "verdict": "passed" if passed else "failed",
                    "steps": 60,
                    "numerics": "same",
                    "first": None if passed else {"step": 131, "source": "bn"},
                    "causes": []
                    if passed
                    else [{"class": "nondeterminism", "confidence": "likely", "evidence": ["all that went in agrees"]}],
                },
                "nulls": [
                    {
                        "name": "carry/carry",
                        "verdict": "failed" if verdict == "null failed" else "passed",
                        "message": "two controls of unit 0 compared bit for bit",
                    },
                    {
                        "name": "1-ulp floor",
                        "verdict": "measured",
                        "message": "every weight moved by one unit in the last place, in 5 units",
                        "sizes": [{"probe": probe, "outcome": "tv", "horizon": 20, "units": 5, "size": 3.1e-7}],
                    },
                ],
                "arms": [
                    {
                        "name": arm.name,
                        "do": [dict(d) for d in arm.do],
                        "desynchronised": [],
                        "receipts": {
                            "applied": arm.applied or 0,
                            "not_applied": arm.not_applied,
                            "examples": [receipt(str(arm.do[0]["source"]), applied=bool(arm.applied))]
                            if arm.do
                            else [],
                        },
                    }
                    for arm in arms
                ],
            }
        ],
        "estimates": rows,
        "findings": [],
    }


def study_for_report(path: Path, **choices: Any) -> Path:
    """A study directory at `path`, without cells and without a manifest."""
    path.mkdir(parents=True)
    document = estimate_document(**choices)
    write_canonical(path / "estimate.json", document)
    plan = {
        "format": "plan-1",
        "forks": [{"run": "runs/digits", "at": 120}],
        "arms": [{"name": arm["name"], "do": arm["do"]} for arm in document["forks"][0]["arms"] if arm["do"]],
        "horizons": [20, 60],
        "units": {"kind": "fork", "seeds": list(range(20))},
        "outcomes": ["nll", "accuracy", "tv", "disagreement"],
        "margins": {"nll": 0.005},
        "probes": None,
        "level": 0.95,
        "family": "plan",
        "looks": [],
        "reach": "auto",
        "executor": {"kind": "forkserver", "jobs": None, "timeout": None, "memory": None, "attempts": 3},
        "seed": 0,
    }
    write_canonical(path / "plan.json", plan)
    return path


def verification(kind: str = "run", verdict: str = "passed", text: str = "") -> dict[str, Any]:
    """A `verify-1` document with a claim of every class; `text` is put wherever a string may stand."""
    classes = ("proved", "proved", "attested", "claimed", "missing", "inconclusive", "human", "contradicted")
    whats = (
        "the trace is whole",
        "every file is the one that was signed",
        "losses and outcomes came from this training",
        "the seed was not chosen after the fact",
        "order of the validation set",
        "bits would be equal on another machine",
        "the program is the one the paper describes",
        "the run ended by itself",
    )
    shown = len(classes) if verdict == "failed" else len(classes) - 1
    claims = [
        {"what": f"{what}{text}", "evidence": word, "where": f"trace.jsonl{text}", "message": f"as the bytes say{text}"}
        for what, word in list(zip(whats, classes, strict=True))[:shown]
    ]
    findings = [
        {
            "code": "MA203",
            "level": "warning",
            "evidence": "proved",
            "where": f"trace.jsonl#/1/streams/2{text}",
            "message": f"the loader has no generator of its own{text}",
            "hint": f"pass generator=torch.Generator().manual_seed(0){text}",
        }
    ]
    if verdict == "failed":
        findings.append(
            {
                "code": "MA302",
                "level": "error",
                "evidence": "contradicted",
                "where": f"anchors/step-000120/tensors.safetensors{text}",
                "message": f"the file is not the one that was signed{text}",
                "hint": "ask the author for the original",
                "expected": f"9f1c{text}",
                "found": f"77a0{text}",
            }
        )
    return {
        "format": "verify-1",
        "path": "somewhere",
        "kind": kind,
        "verdict": verdict,
        "sentence": f"Everything that can be recomputed here holds, and a key you trust signed it{text}.",
        "summary": {},
        "signers": [{"keyid": "0a" * 32, "name": f"Ada{text}", "trusted": True, "verified": True}],
        "claims": claims,
        "findings": findings,
    }
