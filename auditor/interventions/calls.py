"""Acting right before a module computes, wherever the program calls it."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

Owner = TypeVar("Owner")


def before_calls(owner: Owner, modules: Iterable[nn.Module], act: Callable[[Owner, nn.Module], None]) -> None:
    """Have ``act(owner, module)`` called before each call of these modules, for as long as the owner is referred to.

    The hook is a global one, which no module holds: the census stays as it was. Inside a graph that torch.compile
    makes it is nothing, and leaves nothing in the graph; a compiled module is met where the program calls it.
    """
    watched = {id(module): module for module in modules}
    if not watched:
        return
    reference = weakref.ref(owner)

    def before_call(module: nn.Module, args: Any) -> None:
        # First, alone: torch.compile knows its answer, and leaves the rest out of its graph.
        if torch.compiler.is_compiling():
            return
        meant = watched.get(id(module)) or watched.get(id(module._modules.get("_orig_mod")))
        living = reference()
        if meant is not None and living is not None:
            act(living, meant)

    # torch.compile warns of global hooks that fire twice: acting twice is acting once.
    warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are global hooks")
    weakref.finalize(owner, register_module_forward_pre_hook(before_call).remove).atexit = False
