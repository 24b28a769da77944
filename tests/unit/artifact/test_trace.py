import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from auditor.artifact.trace import GENESIS, TraceInUseError, TraceWriter


def test_each_line_holds_the_hash_of_the_line_before_it(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path) as trace:
        for number in range(3):
            trace.append("note", {"n": number, "a": None})
    lines = path.read_bytes().splitlines(keepends=True)
    heads = [GENESIS, *(hashlib.sha256(line).hexdigest() for line in lines)]
    assert [json.loads(line)["prev"] for line in lines] == heads[:3]
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2]
    assert (trace.head, trace.lines) == (heads[3], 3)
    assert lines[0] == f'{{"a":null,"event":"note","n":0,"prev":"{GENESIS}","seq":0}}\n'.encode()


def test_what_cannot_be_written_leaves_no_line(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "trace.jsonl") as trace:
        trace.append("note", {})
        head = trace.head
        with pytest.raises(ValueError, match="beyond"):
            trace.append("note", {"n": 2**60})
        with pytest.raises(ValueError, match="JSON"):
            trace.append("note", {"n": float("nan")})
        assert (trace.head, trace.lines) == (head, 1)
        trace.append("note", {})
    assert len((tmp_path / "trace.jsonl").read_bytes().splitlines()) == 2


def test_a_trace_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_bytes(b"")
    with pytest.raises(FileExistsError):
        TraceWriter(tmp_path / "trace.jsonl")


def test_closing_twice_is_allowed(tmp_path: Path) -> None:
    trace = TraceWriter(tmp_path / "trace.jsonl")
    trace.close()
    trace.close()
    with pytest.raises(ValueError, match="closed"):
        trace.append("note", {})


def test_every_line_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    program = (
        "import os, signal, sys; from pathlib import Path; from auditor.artifact.trace import TraceWriter\n"
        "trace = TraceWriter(Path(sys.argv[1]))\n"
        "for n in range(50): trace.append('note', {'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    if os.name == "nt":
        pytest.skip("no SIGKILL")
    ended = subprocess.run([sys.executable, "-c", program, str(path)])
    assert ended.returncode == -signal.SIGKILL
    assert [json.loads(line)["n"] for line in path.read_bytes().splitlines()] == list(range(50))


def test_a_trace_goes_on_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path) as trace:
        trace.append("note", {"n": 0})
    with TraceWriter.reopen(path, trace.head, trace.lines) as again:
        again.append("note", {"n": 1})
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["n"] for line in lines] == [0, 1]
    assert json.loads(lines[1])["prev"] == hashlib.sha256(lines[0]).hexdigest()
    assert again.lines == 2


@pytest.mark.skipif(os.name == "nt", reason="no record locks")
def test_a_trace_has_one_writer_and_a_killed_one_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    program = (
        "import os, sys, time; from pathlib import Path; from auditor.artifact.trace import TraceWriter\n"
        "trace = TraceWriter(Path(sys.argv[1]))\n"
        "if os.fork() == 0: os.close(1); time.sleep(10); os._exit(0)\n"  # a worker outlives its parent
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(TraceInUseError):
            TraceWriter.reopen(path, GENESIS, 0)
        process.kill()
        process.wait()
        TraceWriter.reopen(path, GENESIS, 0).close()
        process.stdout.close()


def test_lines_of_several_threads_make_one_chain(tmp_path: Path) -> None:
    """A pass that ended in the thread that draws, while a step was written, broke the chain."""
    path = tmp_path / "trace.jsonl"
    begin = threading.Barrier(4)

    def write(name: str) -> None:
        begin.wait()
        for number in range(300):
            writer.append("step", {"of": name, "number": number, "filling": "x" * 500})

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with TraceWriter(path) as writer:
            threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    head = GENESIS
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        event = json.loads(line)
        assert (event["seq"], event["prev"]) == (number, head)
        head = hashlib.sha256(line).hexdigest()
    assert (number, head) == (1199, writer.head)
