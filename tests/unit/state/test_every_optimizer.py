"""Any optimizer, put back into a freshly built program, goes on bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from auditor.errors import MemauditError
from auditor.state.census import Watched
from tests.unit.state.state_support import capture, digests, names, put_back, watch

Make = Callable[[nn.Module], Any]
O = torch.optim  # noqa: E741


class Madgrad(O.Optimizer):
    """Keeps a count under a key of its own, a tensor and a nested dict a parameter, and numbers in the group."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05, "seen": 0, "schedule": lambda step: 1.0})
        self.state["k"] = torch.zeros(1, dtype=torch.long)
        self.total = 0.0
        self.history = []

    @torch.no_grad()
    def step(self) -> None:
        self.state["k"] += 1
        for group in self.param_groups:
            group["seen"] += 1
            group.setdefault("scale", torch.ones(()))
            group["scale"].mul_(0.9)
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["sums"] = {"first": torch.zeros_like(p), "second": [0.0, torch.zeros(())]}
                    state["x0"] = p.clone()
                    state["param"] = p
                state["sums"]["first"].add_(p.grad)
                state["sums"]["second"][0] += 1.0
                state["sums"]["second"][1] += p.grad.square().sum()
                self.total += float(p.grad.abs().sum())
                scale = group["lr"] * group["scale"] / (1 + 1e-3 * self.total + state["sums"]["second"][1].sqrt())
                state["param"].copy_(state["x0"] - scale * state["sums"]["first"])
        self.history = [*self.history[-2:], self.total]


class Lookahead(O.Optimizer):
    """The usual wrapper: an inner optimizer's groups and state, slow weights keyed by the parameter, an own count."""

    def __init__(self, inner: O.Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups
        self.defaults = inner.defaults
        self.state = {}
        self.count = 0
        self.slow = {}

    @torch.no_grad()
    def step(self) -> None:
        self.inner.step()
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.slow.setdefault(p, p.clone())
                if self.count % 2 == 0:
                    slow.lerp_(p, 0.5)
                    p.copy_(slow)

    def zero_grad(self) -> None:
        self.inner.zero_grad()


class Wrapper:
    """No Optimizer, but it has state_dict and load_state_dict."""

    def __init__(self, inner: O.Optimizer) -> None:
        self.inner = inner
        self.skipped = 0

    def step(self) -> None:
        self.skipped += 1
        if self.skipped % 3:
            self.inner.step()

    def zero_grad(self) -> None:
        self.inner.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.skipped = state["skipped"]


MAKERS: dict[str, Make] = {
    "Adadelta": lambda n: O.Adadelta(n.parameters()),
    "Adafactor": lambda n: O.Adafactor(n.parameters()),
    "Adagrad": lambda n: O.Adagrad(n.parameters()),
    "Adam": lambda n: O.Adam(n.parameters(), amsgrad=True),
    "Adam bfloat16": lambda n: O.Adam(n.bfloat16().parameters()),
    "Adam fused": lambda n: O.Adam(n.parameters(), fused=True),
    "Adam foreach": lambda n: O.Adam(n.parameters(), foreach=True),
    "Adam tensor betas": lambda n: O.Adam(n.parameters(), lr=torch.tensor(0.01)),
    "AdamW": lambda n: O.AdamW(n.parameters()),
    "Adamax": lambda n: O.Adamax(n.parameters()),
    "ASGD": lambda n: O.ASGD(n.parameters(), t0=2),
    "LBFGS": lambda n: O.LBFGS(n.parameters(), max_iter=3, history_size=4),
    "LBFGS strong wolfe": lambda n: O.LBFGS(n.parameters(), max_iter=4, line_search_fn="strong_wolfe"),
    "NAdam": lambda n: O.NAdam(n.parameters()),
    "RAdam": lambda n: O.RAdam(n.parameters()),
    "RMSprop": lambda n: O.RMSprop(n.parameters(), momentum=0.9, centered=True),
    "Rprop": lambda n: O.Rprop(n.parameters()),
    "SGD": lambda n: O.SGD(n.parameters(), lr=0.1),
    "SGD momentum": lambda n: O.SGD(n.parameters(), lr=0.1, momentum=0.9, dampening=0.2),
    "SparseAdam": lambda n: O.SparseAdam([n.table.weight]),
    "third party": lambda n: Madgrad(n.parameters()),
    "lookahead": lambda n: Lookahead(O.Adam(n.parameters())),
    "lookahead over SGD": lambda n: Lookahead(O.SGD(n.parameters(), lr=0.1, momentum=0.9)),
    "wrapper": lambda n: Wrapper(O.Adam(n.parameters(), lr=0.02)),
    "two groups": lambda n: O.Adam([{"params": n.table.parameters(), "lr": 0.1}, {"params": n.head.parameters()}]),
}
if hasattr(O, "Muon"):
    MAKERS["Muon"] = lambda n: O.Muon([n.table.weight, n.head[0].weight], lr=0.02)


class Net(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(6, 4, sparse=sparse)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids))


def build(name: str) -> tuple[Net, Any, Watched]:
    net = Net(sparse=name == "SparseAdam")
    optimizer = MAKERS[name](net)
    return net, optimizer, watch(model=net, optimizer=optimizer)


def train(net: Net, optimizer: Any, steps: range) -> None:
    for step in steps:
        ids = torch.randint(0, 6, (8,), generator=torch.Generator().manual_seed(step))

        def closure(ids: torch.Tensor = ids) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (net(ids).float() - ids[:, None].float()).square().mean()
            loss.backward()
            return loss

        if isinstance(optimizer, O.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


def test_every_optimizer_of_torch_is_tried() -> None:
    offered = {name for name, kind in vars(O).items() if isinstance(kind, type) and issubclass(kind, O.Optimizer)}
    assert offered - {"Optimizer"} <= {name.partition(" ")[0] for name in MAKERS}


@pytest.mark.parametrize("elsewhere", [0, 3], ids=["fresh", "trained elsewhere"])
@pytest.mark.parametrize("name", MAKERS)
def test_it_goes_on_bit_for_bit(name: str, elsewhere: int) -> None:
    net, optimizer, found = build(name)
    train(net, optimizer, range(5))
    held = capture(found)
    train(net, optimizer, range(5, 10))
    net2, optimizer2, found2 = build(name)
    train(net2, optimizer2, range(50, 50 + elsewhere))
    put_back(found2, held)
    train(net2, optimizer2, range(5, 10))
    assert digests(found2) == digests(found)


@pytest.mark.parametrize("name", ["Adam", "LBFGS", "SGD momentum", "third party", "lookahead"])
def test_a_state_from_before_the_first_step_takes_everything_away_again(name: str) -> None:
    net, optimizer, found = build(name)
    held = capture(found)
    train(net, optimizer, range(4))
    after = digests(found)
    put_back(found, held)
    train(net, optimizer, range(4))
    assert digests(found) == after


def test_what_third_parties_keep_is_named() -> None:
    net, optimizer, found = build("third party")
    train(net, optimizer, range(2))
    assert [name for name in names(found) if name.startswith(("optimizer", "hyper"))] == [
        *("optimizer.history", "optimizer.k", "optimizer.param", "optimizer.sums", "optimizer.total", "optimizer.x0"),
        *("hyper.lr", "hyper.scale", "hyper.seen"),
    ]
    net, optimizer, found = build("lookahead")
    train(net, optimizer, range(2))
    kept = [name for name in names(found) if name.startswith("optimizer")]
    assert kept == [
        *("optimizer.count", "optimizer.inner.exp_avg", "optimizer.inner.exp_avg_sq", "optimizer.inner.step"),
        "optimizer.slow",
    ]
    assert [s.kind for s in build("wrapper")[2].sources()] == ["params", "optimizer"]


def test_a_reference_to_a_parameter_stays_one() -> None:
    net, optimizer, found = build("third party")
    train(net, optimizer, range(2))
    held = capture(found)
    assert held["optimizer.param"].tensors == {}
    net2, optimizer2, found2 = build("third party")
    put_back(found2, held)
    assert all(optimizer2.state[p]["param"] is p for p in net2.parameters())


def test_state_that_needs_pickle_is_refused_by_its_path() -> None:
    net, optimizer, found = build("SGD momentum")
    optimizer.state[net.table.weight]["hook"] = object()
    source = next(source for source in found.sources() if source.name == "optimizer.hook")
    with pytest.raises(MemauditError, match="without pickle") as caught:
        source.read()
    assert caught.value.where == "table.weight"


def test_state_of_parameters_that_left_is_told() -> None:
    net, optimizer, found = build("two groups")
    train(net, optimizer, range(2))
    optimizer.param_groups.pop()
    entry = next(source for source in found.sources() if source.name == "optimizer.unlisted").describe()
    assert not entry["captured"]
    assert entry["reason"] == "state of tensors that are in no parameter group"


def test_weights_that_only_an_optimizer_holds_are_weights() -> None:
    def build_latent() -> tuple[torch.Tensor, O.Optimizer, Watched]:
        latent = torch.zeros(3, requires_grad=True)
        optimizer = O.Adam([latent], lr=0.1)
        return latent, optimizer, watch(model=nn.Linear(3, 1), optimizer=optimizer)

    latent, optimizer, found = build_latent()
    assert [name for name in names(found) if name.startswith("params")] == ["params", "params[optimizer]"]
    (latent - 1).square().sum().backward()
    optimizer.step()
    held = capture(found)
    latent2, _, found2 = build_latent()
    put_back(found2, held)
    assert latent2.tolist() == latent.tolist()
    assert latent2.requires_grad


def test_optimizers_are_told_apart_by_keyword_from_the_first_step_on() -> None:
    nets = {"generator": nn.Linear(2, 2), "critic": nn.Linear(2, 1)}
    adams = {f"{name}_adam": O.Adam(net.parameters()) for name, net in nets.items()}
    found = watch(**nets, **adams)
    nets["critic"](torch.ones(1, 2)).sum().backward()
    adams["critic_adam"].step()
    assert "optimizer[critic_adam].exp_avg" in names(found)


@pytest.mark.parametrize(
    ("name", "slot", "half_life"),
    [
        ("Adam", "exp_avg", 6.5788),
        ("RMSprop", "square_avg", 68.968),
        ("Adadelta", "acc_delta", 6.5788),
        ("Adamax", "exp_inf", 692.8),
        ("LBFGS", "old_dirs", None),
        ("Rprop", "prev", None),
    ],
)
def test_half_lives_of_slots(name: str, slot: str, half_life: float | None) -> None:
    net, optimizer, found = build(name)
    train(net, optimizer, range(3))
    entry = next(source for source in found.sources() if source.name == f"optimizer.{slot}").describe()
    assert entry["half_life"] == (None if half_life is None else pytest.approx(half_life, rel=1e-4))
