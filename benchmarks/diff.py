"""What comparing two runs costs: the whole command on two long traces, against reading them once in other ways.

    python benchmarks/diff.py                   a million steps each, about two minutes
    python benchmarks/diff.py --steps 100000    a look

Two traces of made-up digests are written: 15 memory sources, 6 of which change at every step, and 3 streams that do,
about 520 bytes a line. They are compared where both are equal and where they part at step 1000. Beside the command
stand, on the same files: SHA-256 of their bytes (the floor: both files read once), a JSON parser alone on every line,
and the reader that verification uses, which checks every byte's form (on a tenth of the lines, times ten). Seconds are
wall time of a process of its own, imports included; peak memory is its largest resident set.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCES = 15
CHANGING = (0, 1, 2, 7, 12, 13)
STREAMS = ("numpy", "python", "torch")

READ = {
    "SHA-256 of the bytes": "import hashlib\nfor name in names: hashlib.file_digest(open(name, 'rb'), 'sha256')",
    "orjson on every line": "import orjson\nfor name in names:\n  for line in open(name, 'rb'): orjson.loads(line)",
    "verification's reader": "from auditor.evidence.trace_reader import read_trace\n"
    "for name in names: assert not read_trace(b''.join(open(name, 'rb').readlines()[:share])).problems",
}


def write(directory: Path, steps: int, argument: str, part: int | None) -> None:
    """Write one trace; equal to any other with the same ``steps`` but for its arguments, up to step ``part``."""
    from auditor.artifact.canonical import canonical_bytes, write_canonical
    from auditor.artifact.digest import digest_text
    from auditor.artifact.run_directory import ENVIRONMENT
    from auditor.artifact.trace import FORMAT, GENESIS
    from auditor.recorder.environment import describe
    from auditor.recorder.program_files import read_program

    directory.mkdir(parents=True)
    environment = describe(read_program(keep=False).described)
    sha256 = hashlib.sha256(write_canonical(directory / ENVIRONMENT, environment)).hexdigest()
    draws, head, seq = random.Random(0), GENESIS, 0  # noqa: S311 - made-up digests
    with (directory / "trace.jsonl").open("wb") as file:

        def put(event: dict[str, Any]) -> None:
            nonlocal head, seq
            line = canonical_bytes({**event, "prev": head, "seq": seq}) + b"\n"
            head, seq = hashlib.sha256(line).hexdigest(), seq + 1
            file.write(line)

        def digest() -> str:
            return digest_text(draws.randbytes(16))

        put(
            {
                "event": "start",
                "format": FORMAT,
                "digest": "xxh3-128-tree-1",
                "seed": "0",
                "program": {"path": "train.py", "sha256": GENESIS, "argv": [argument]},
                "order": "ids",
                "environment": sha256,
            }
        )
        put({"event": "census", "sources": [_source(number) for number in range(SOURCES)], "streams": _streams()})
        for step in range(1, steps + 1):
            sources = [digest() if step == 1 or number in CHANGING else None for number in range(SOURCES)]
            event = {
                "event": "step",
                "step": step,
                "pass": 1,
                "position": step,
                "ids": digest(),
                "batch": digest(),
                "sources": sources,
                "streams": [digest() for _ in STREAMS],
                "loss": draws.random(),
            }
            if part is not None and step >= part:
                sources[0] = digest_text(hashlib.sha256(f"{step}".encode()).digest()[:16])
                event["loss"] += 1e-3
            put(event)
        put({"event": "end", "status": "completed", "steps": steps})


def _source(number: int) -> dict[str, Any]:
    name = "params" if number == 0 else f"optimizer.slot{number}"
    kind = name.partition(".")[0]
    return {
        "name": name,
        "kind": kind,
        "lifetime": "the run",
        "half_life": None,
        "visibility": "in the weights",
        "captured": True,
        "reason": None,
    }


def _streams() -> list[dict[str, Any]]:
    return [{"name": name, "seeded_by": None, "consumers": [], "warnings": []} for name in STREAMS]


def timed(command: list[str], expected: int = 0) -> tuple[float, float]:
    """Return wall seconds and peak MiB of one process."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = _wait(process)
    if status != expected:
        raise SystemExit(f"{command} ended with {status}, not {expected}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, resource.struct_rusage]:
    pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return pid, process.returncode, usage


def main() -> None:
    """Write, compare, print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="only write the traces, there")
    options = parser.parse_args()
    if options.write is not None:
        for name, part in (("a", None), ("equal", None), ("parted", 1000)):
            write(options.write / name, options.steps, name, part)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In another process: a child begins with its parent's peak, and writing imports torch.
        subprocess.run([sys.executable, __file__, "--steps", str(options.steps), "--write", folder], check=True)
        size = sum((root / name / "trace.jsonl").stat().st_size for name in ("a", "equal"))
        names = [str(root / name / "trace.jsonl") for name in ("a", "equal")]
        share = max(options.steps // 10, 1)
        ways = {
            way: ([sys.executable, "-c", f"names, share = {names!r}, {share}\n{code}"], 0) for way, code in READ.items()
        }
        diff = [sys.executable, "-m", "auditor.cli.main", "diff", str(root / "a")]
        ways["`memaudit diff`, equal runs"] = ([*diff, str(root / "equal")], 0)
        ways[f"`memaudit diff`, parted at step {1000:,}"] = ([*diff, str(root / "parted")], 1)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        peaks: dict[str, float] = {}
        for _ in range(options.rounds):
            for way, (command, status) in ways.items():
                took, peaks[way] = timed(command, status)
                seconds[way].append(took * (10 if "reader" in way else 1))
        print(f"two traces of {options.steps:,} steps, {size / 1e6:,.0f} MB together; best of {options.rounds}\n")
        floor = min(seconds["SHA-256 of the bytes"])
        print("| way | seconds | ratio to SHA-256 | peak MiB |\n| --- | --- | --- | --- |")
        for way, each in seconds.items():
            peak = "" if "reader" in way else f"{peaks[way]:.0f}"
            print(f"| {way} | {min(each):.1f} | {min(each) / floor:.1f} | {peak} |")


if __name__ == "__main__":
    main()
