"""EMA, optimisers and schedules: hand values, torch and basicsr as oracles."""

import inspect
import math

import pytest
import torch
from torch import nn

from tests.basicsr_oracle import load_basicsr
from tgsr.models.ema import EMA
from tgsr.models.optimizers import OPTIMIZERS
from tgsr.models.schedulers import SCHEDULERS, warmup_factor
from tgsr.utils.errors import ConfigError


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.tied = self.conv
        self.plain = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.bn(self.conv(x))


def test_ema_hand_value():
    net = TinyNet()
    ema = EMA(net, 0.9)
    with torch.no_grad():
        net.plain.copy_(torch.tensor([1.0, 2.0]))
    ema.update(net)
    torch.testing.assert_close(ema.module.plain, torch.tensor([0.1, 0.2]))
    ema.update(net)
    torch.testing.assert_close(ema.module.plain, torch.tensor([0.19, 0.38]))


def test_ema_averages_tied_weights_once_and_copies_buffers():
    torch.manual_seed(0)
    net = TinyNet()
    ema = EMA(net, 0.75)
    before = net.conv.weight.detach().clone()
    with torch.no_grad():
        net.conv.weight.add_(4.0)
    net.train()(torch.rand(2, 3, 8, 8))
    ema.update(net)
    torch.testing.assert_close(ema.module.conv.weight, before + 1.0)
    assert ema.module.tied is ema.module.conv
    assert torch.equal(ema.module.bn.running_mean, net.bn.running_mean)
    assert net.bn.running_mean.abs().sum() > 0
    assert ema.module.bn.num_batches_tracked == 1


def test_ema_follows_exchanged_tensors():
    net = TinyNet()
    ema = EMA(net, 0.5)
    ema.update(net)
    net.bn.running_var = torch.full((4,), 7.0)
    net.plain = nn.Parameter(torch.tensor([2.0, 4.0]))
    ema.update(net)
    torch.testing.assert_close(ema.module.plain, torch.tensor([1.0, 2.0]))
    assert torch.equal(ema.module.bn.running_var, net.bn.running_var)


def test_ema_is_apart_from_the_graph_and_round_trips():
    net = TinyNet()
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    ema = EMA(net, 0.9)
    assert all(p.grad is None and not p.requires_grad for p in ema.module.parameters())
    assert all(p.grad is not None for p in net.conv.parameters())
    assert not ema.module.training
    ema.update(net)
    other = EMA(TinyNet(), 0.9)
    other.load_state_dict(ema.state_dict())
    for a, b in zip(ema.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    fresh = TinyNet()
    ema.reset(fresh)
    for a, b in zip(ema.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_ema_refuses_decay(decay):
    with pytest.raises(ConfigError, match="ema_decay"):
        EMA(TinyNet(), decay)


ORACLES = {
    "Adam": (torch.optim.Adam, {"betas": (0.9, 0.99), "weight_decay": 0.1}),
    "AdamW": (torch.optim.AdamW, {"betas": (0.9, 0.9), "weight_decay": 0.2, "eps": 1e-6}),
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1, "eps": 1e-7}),
    "Adamax": (torch.optim.Adamax, {"betas": (0.8, 0.99), "weight_decay": 0.01}),
    "NAdam": (torch.optim.NAdam, {"momentum_decay": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "RAdam": (torch.optim.RAdam, {"betas": (0.8, 0.99), "weight_decay": 0.01}),
    "RMSprop": (torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5, "centered": True}),
}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_optimizers_step_as_torch_does(name):
    torch_class, kwargs = ORACLES[name]
    start = torch.linspace(-1, 1, 7)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    a = OPTIMIZERS.get(name)(iter([ours, frozen]), lr=0.05, **kwargs)
    b = torch_class([theirs], lr=0.05, **kwargs)
    assert sum(len(g["params"]) for g in a.param_groups) == 1
    for step in range(4):
        for p, optimizer in ((ours, a), (theirs, b)):
            p.grad = torch.sin(p.detach() * (step + 1))
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert not torch.equal(ours, start)


def test_optimizers_fused_where_possible_and_keep_groups():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS.get("Adam")([{"params": [p], "lr": 1.0}, {"params": [q]}], lr=0.1)
    assert optimizer.defaults["fused"] is True
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 0.1]
    assert OPTIMIZERS.get("AdamW")([p, q], lr=0.1, fused=False).defaults["fused"] is False
    assert len(OPTIMIZERS.get("SGD")([p, q], lr=0.1).param_groups) == 1


def test_optimizers_refuse_nonsense():
    p = nn.Parameter(torch.ones(2))
    for kwargs, word in (({"lr": -1.0}, "lr"), ({"lr": 0.1, "betas": (0.9, 1.0)}, "betas")):
        with pytest.raises(ConfigError, match=word):
            OPTIMIZERS.get("Adam")([p], **kwargs)
    with pytest.raises(ConfigError, match="nothing to train"):
        OPTIMIZERS.get("Adam")([nn.Parameter(torch.ones(2), requires_grad=False)], lr=0.1)


@pytest.mark.parametrize("table", [OPTIMIZERS, SCHEDULERS])
def test_arguments_are_keyword_only_and_typed(table):
    for name in table.names():
        for parameter in inspect.signature(table.get(name)).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, name
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY or parameter.name == "params", name


def _torch_rates(make, num_iters, base_lr):
    """Rates that torch-style schedulers give at each step, stepped before every step but the first."""
    import warnings

    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=base_lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer)
        rates = []
        for iteration in range(num_iters):
            if iteration > 0:
                scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("name", "kwargs", "num_iters"),
    [
        ("MultiStepRestartLR", {"milestones": [3, 7, 7], "gamma": 0.5}, 12),
        ("MultiStepRestartLR", {"milestones": [0, 2], "gamma": 0.5}, 5),
        (
            "MultiStepRestartLR",
            {"milestones": [3, 6, 10, 12], "gamma": 0.1, "restarts": [0, 6, 11], "restart_weights": [1, 0.5, 2]},
            15,
        ),
        ("MultiStepRestartLR", {"milestones": [0, 2, 5], "restarts": [4], "restart_weights": [0.5]}, 8),
        ("CosineAnnealingRestartLR", {"periods": [5, 3, 4], "restart_weights": [1, 0.5, 0.25], "eta_min": 1e-3}, 13),
        ("CosineAnnealingRestartLR", {"periods": [6]}, 7),
    ],
)
def test_schedules_as_basicsr(name, kwargs, num_iters):
    theirs = getattr(load_basicsr("basicsr.models.lr_scheduler"), name)
    expected = _torch_rates(lambda optimizer: theirs(optimizer, **kwargs), num_iters, 0.2)
    ours = SCHEDULERS.get(name)(**kwargs)
    assert [ours.lr_at(i, 0.2) for i in range(num_iters)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_cosine_as_torch():
    expected = _torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9, 1e-3), 10, 0.2)
    ours = SCHEDULERS.get("TrueCosineAnnealingLR")(T_max=9, eta_min=1e-3)
    assert [ours.lr_at(i, 0.2) for i in range(10)] == pytest.approx(expected, rel=1e-9)
    assert ours.lr_at(50, 0.2) == pytest.approx(1e-3)


def test_schedules_hand_values():
    linear = SCHEDULERS.get("LinearLR")(total_iter=4)
    assert [linear.lr_at(i, 1.0) for i in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    cyclic = SCHEDULERS.get("CosineAnnealingRestartCyclicLR")(
        periods=[4, 4], restart_weights=[1, 1], eta_mins=[0.5, 0.1]
    )
    assert [cyclic.lr_at(i, 1.0) for i in (0, 2, 4, 6, 8, 99)] == pytest.approx([1, 0.75, 0.5, 0.55, 0.1, 0.1])
    warm = SCHEDULERS.get("CosineWarmupLR")(total_iter=13, warmup_iter=4, eta_min=0.2)
    values = [warm.lr_at(i, 1.0) for i in range(15)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert values[4:14] == sorted(values[4:14], reverse=True)
    assert values[8] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 0.5)))
    assert values[13:] == pytest.approx([0.2, 0.2])
    assert SCHEDULERS.get("ConstantLR")().lr_at(7, 0.3) == 0.3


def test_warmup_factor():
    assert [warmup_factor(i, 4) for i in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_factor(0, -1) == warmup_factor(0, 0) == 1.0


def test_schedules_stay_at_their_end():
    restarts = SCHEDULERS.get("CosineAnnealingRestartLR")(periods=[5], eta_min=0.01)
    assert restarts.lr_at(1000, 1.0) == pytest.approx(0.01)


def test_schedules_refuse_uneven_lists():
    with pytest.raises(ConfigError, match="restart_weights"):
        SCHEDULERS.get("MultiStepLR")(milestones=[1], restarts=[0, 5])
    with pytest.raises(ConfigError, match="restart_weights"):
        SCHEDULERS.get("CosineAnnealingRestartLR")(periods=[5, 5])
    with pytest.raises(ConfigError, match="T_max"):
        SCHEDULERS.get("CosineAnnealingLR")(T_max=0)
