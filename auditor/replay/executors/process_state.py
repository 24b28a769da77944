"""This process as a fresh one for a while: what a program changes in it is put back, each kind by a manager of its own.

Not put back: what ``atexit`` runs later, threads that go on, handlers of loggers that have names, hooks that a program
registers for all modules or optimizers of torch, torch's number of interop threads (which can be set once) and whether
it flushes denormal numbers, and whatever C code keeps.
"""

from __future__ import annotations

import gc
import io
import logging
import multiprocessing
import os
import pdb
import random
import signal
import site
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import numpy as np


@contextmanager
def as_fresh(program_folder: Path) -> Iterator[None]:
    """Run the block as in a fresh process with torch loaded; put back what it changes, whatever ends it.

    ``program_folder`` is where the program lies: modules from there are imported anew in each block.
    """
    managers = (_streams, _interpreter, _signals, _logging, _random, _torch)
    with ExitStack() as stack:
        # First: parts of torch that are imported below change the filters.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        for manager in managers:
            stack.enter_context(manager())
        stack.enter_context(_modules(program_folder))
        try:
            yield
        finally:
            # What goes on acting until it is collected must not act in the next cell: loader workers, held sources.
            gc.collect()


@contextmanager
def _streams() -> Iterator[None]:
    """Keep the file descriptors 1 and 2 and the objects over them; a ``breakpoint()`` still reaches the terminal."""
    objects = sys.stdout, sys.stderr, sys.breakpointhook
    _flush()
    saved = os.dup(1), os.dup(2)
    terminal = _terminal(saved[1])
    if sys.breakpointhook is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _debugger(terminal)
    try:
        yield
    finally:
        _flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        sys.stdout, sys.stderr, sys.breakpointhook = objects


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, or one that was closed
            stream.flush()


def _terminal(copy: int) -> TextIO:
    """Return what shows text to whoever looks at stderr, while descriptor 2 is a log."""
    try:
        if sys.stderr.fileno() != 2:
            return sys.stderr
    except (AttributeError, OSError, ValueError):  # a notebook's, which has no descriptor
        return sys.stderr or io.StringIO()
    return open(copy, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


def _debugger(terminal: TextIO) -> Callable[..., None]:
    def hook(*_: Any, **__: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        pdb.Pdb(stdin=sys.stdin, stdout=terminal).set_trace(frame)

    return hook


@contextmanager
def _interpreter() -> Iterator[None]:
    """Keep the directory, the environment, the arguments, the path of modules, and how children are started."""
    here, environment, arguments, path = Path.cwd(), dict(os.environ), sys.argv, list(sys.path)
    hooks = sys.excepthook, sys.displayhook
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)
        sys.excepthook, sys.displayhook = hooks
        sys.argv, sys.path[:] = arguments, path
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        os.chdir(here)


@contextmanager
def _signals() -> Iterator[None]:
    """Keep the handlers that Python knows of."""
    saved = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in saved.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


@contextmanager
def _logging() -> Iterator[None]:
    """Give the program a root logger without handlers, as in a fresh process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _random() -> Iterator[None]:
    """Keep the states of Python's and NumPy's global generators."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _torch() -> Iterator[None]:
    """Begin with torch's settings as they are in a fresh process, and keep the generators.

    These begin as they are: in a fresh process nobody knows their seed either.
    """
    torch: Any = import_module("torch")  # by name: this wing imports nothing that knows torch
    settings = _torch_settings(torch)
    saved = [get() for get, _, _ in settings]
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    for _, put, fresh in settings:
        put(fresh)
    try:
        yield
    finally:
        for (get, put, _), value in zip(settings, saved, strict=True):
            if get() != value:
                put(value)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _torch_settings(torch: Any) -> list[tuple[Callable[[], Any], Callable[[Any], Any], Any]]:
    """Return each setting as (read, write, its value in a fresh process)."""

    def attribute(holder: Any, name: str, fresh: Any) -> tuple[Callable[[], Any], Callable[[Any], Any], Any]:
        return (lambda: getattr(holder, name)), (lambda value: setattr(holder, name, value)), fresh

    def set_device(device: Any) -> None:
        # None unsets it; the CPU is what holds then.
        torch.set_default_device(None if device == torch.device("cpu") else device)

    return [
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_default_device, set_device, torch.device("cpu")),
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda pair: torch.use_deterministic_algorithms(pair[0], warn_only=pair[1]),
            (False, False),
        ),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        (torch.is_grad_enabled, torch.set_grad_enabled, True),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
        attribute(torch.backends.mkldnn, "enabled", True),
        attribute(torch.backends.cudnn, "benchmark", False),
        attribute(torch.backends.cudnn, "deterministic", False),
        attribute(torch.backends.cudnn, "allow_tf32", True),
    ]


@contextmanager
def _modules(folder: Path) -> Iterator[None]:
    """Have modules from beside the program imported anew inside, and those that were known put back after."""
    known = {name: sys.modules.pop(name) for name in _beside(folder)}
    main = sys.modules["__main__"]
    try:
        yield
    finally:
        for name in _beside(folder):
            del sys.modules[name]
        sys.modules.update(known)
        sys.modules["__main__"] = main


def _beside(folder: Path) -> list[str]:
    """Return the names of the imported modules that lie beside the program, as the recorder tells them."""
    folder = folder.resolve()
    places = (sys.prefix, sys.base_prefix, site.getusersitepackages(), *site.getsitepackages())
    installed = [Path(place).resolve() for place in places]
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name == "__main__" or name.partition(".")[0] == "auditor":
            continue
        path = Path(file).resolve()
        if path.is_relative_to(folder) and not any(path.is_relative_to(place) for place in installed):
            found.append(name)
    return found
