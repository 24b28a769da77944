"""Interventions on BatchNorm's running statistics. Weights stay; only evaluation sees the difference at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from auditor.artifact.digest import digest_text
from auditor.interventions.intervention import Branch, Intervention, NotApplicable, Probed
from auditor.state.anchor import copied
from auditor.state.module import BatchNormSource, batch_norms
from auditor.state.source import Reading, Source
from auditor.state.streams import Preserved
from auditor.state.values import encode


class ResetBatchNorm(Intervention):
    """Forget the running statistics: mean 0, variance 1, count 0, as torch's ``reset_running_stats`` leaves them.

    Weights, momentum and modes are held fixed. With momentum m the gap to the carried mean decays as (1 - m)^n over n
    further batches; training itself normalises by each batch's own statistics and goes on as it would. "Reset" of BN in
    "Training Memory in Deep Neural Networks" (arXiv 2601.21624); torch/nn/modules/batchnorm.py.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Have every layer reset itself."""
        layers = _layers(sources)
        for name, layer in layers.items():
            if not callable(getattr(layer, "reset_running_stats", None)):
                raise NotApplicable(
                    f"{name} is a {type(layer).__name__} without reset_running_stats(): how it begins is not known"
                )
        for layer in layers.values():
            layer.reset_running_stats()


class RecalibrateBatchNorm(Intervention):
    """Measure the running statistics anew, for the weights as they are, on the inputs of a probe.

    As torch.optim.swa_utils.update_bn: every layer is reset and set to a plain mean over batches (momentum None), and
    the probe's model runs in training mode, without gradients, on the probe's inputs cut in their order into
    ``batches`` of nearly equal size. Probes are the inputs that an anchor's fork has at hand in any process, fixed and
    hashed: a probe of training samples, with a name of its own (``probe``), is the one to use; one that outcomes are
    measured on would let the model see its test inputs. The receipt holds their digest, as in probes.json.

    Weights, momentum, modes, every other source and all streams are put back as they were; dropout draws from streams
    of the intervention's own meanwhile. "Recalibrate" of BN in arXiv 2601.21624.
    """

    def change(self, sources: list[Source], branch: Branch) -> None:
        """Run the probe's model on its inputs and put back everything but the statistics."""
        layers = _layers(sources)
        for name, layer in layers.items():
            if not isinstance(layer, _BatchNorm):
                raise NotApplicable(f"{name} is a {type(layer).__name__}, which keeps no plain mean over batches")
        probe = self._probe(layers, branch)
        batches = _cut(probe.inputs, self.arguments["batches"])
        tensors: dict[str, torch.Tensor] = {}
        self.arguments["inputs"] = digest_text(Reading(tensors, encode(probe.inputs, tensors)).digest())
        before = [(source, copied(source.read())) for source in branch.watched.sources() if source.captured]
        self._measure(probe, batches, layers, branch)
        unreached = [name for name, layer in layers.items() if not int(layer.num_batches_tracked)]
        changed = {source.name for source in sources}
        for source, reading in before:
            if (source.name not in changed or unreached) and source.read().digest() != reading.digest():
                source.restore(reading)
        if unreached:
            raise NotApplicable(f"the probe's model does not use {unreached[0]}: it would keep no statistics")

    def _measure(self, probe: Probed, batches: list[Any], layers: dict[str, Any], branch: Branch) -> None:
        modes = [(module, module.training) for module in probe.model.modules()]
        momenta = [(layer, layer.momentum) for layer in layers.values()]
        streams = branch.streams()
        description = repr(sorted(self.description.items()))
        with Preserved(streams), torch.no_grad():
            for stream in streams:
                stream.rekey(f"{branch.key}/intervention {description}")
            probe.model.train()
            try:
                for layer in layers.values():
                    layer.reset_running_stats()
                    layer.momentum = None
                    layer.training = True  # a model's own train() may leave it out
                for batch in batches:
                    probe.call(batch)
            finally:
                for layer, momentum in momenta:
                    layer.momentum = momentum
                for module, mode in modes:
                    module.training = mode

    def _probe(self, layers: dict[str, Any], branch: Branch) -> Probed:
        wanted = {id(layer) for layer in layers.values()}
        fitting = {
            name: probe
            for name, probe in branch.probes.items()
            if wanted <= {id(module) for module in probe.model.modules()}
        }
        name = self.arguments["probe"] or (next(iter(fitting)) if len(fitting) == 1 else None)
        if name in fitting:
            self.arguments["probe"] = name
            return fitting[name]
        if name is not None:
            raise NotApplicable(f"no probe {name} runs all layers of {self.source}; {_names(fitting)}")
        raise NotApplicable(
            f"no probe runs all layers of {self.source}"
            if not fitting
            else f"several probes run all layers of {self.source}; {_names(fitting)}: say probe=…"
        )


def _names(probes: dict[str, Probed]) -> str:
    return f"there are: {', '.join(probes) or 'none'}"


def _layers(sources: list[Source]) -> dict[str, Any]:
    """Return the layers of BatchNorm sources under their dotted names, each once."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for source in sources:
        if isinstance(source, BatchNormSource):
            for name, layer in batch_norms(source.module):
                found.setdefault(id(layer), (f"{source.name}/{name}", layer))
    return dict(found.values())


def _cut(inputs: Any, count: int) -> list[Any]:
    """Return a probe's inputs in ``count`` batches of at least two samples, in their order."""
    if count == 1:
        return [inputs]
    if not isinstance(inputs, torch.Tensor):
        raise NotApplicable("the probe's inputs are no single tensor, so they cannot be cut: use batches=1")
    if len(inputs) < 2 * count:
        raise NotApplicable(f"the probe has {len(inputs)} samples, too few for {count} batches of two")
    return list(torch.tensor_split(inputs, count))
