"""Gradient accumulation on several ranks: gradients are exchanged once an iteration, and the step stays the same."""

import copy
import warnings

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.models.test_against_basicsr import NET_D, NET_G, batches, lr_at, make, parts
from tgsr.losses.gan import GANLoss
from tgsr.losses.pixel import L1Loss
from tgsr.models.adversarial import AdversarialModel
from tgsr.models.base import BUFFERS_STAY
from tgsr.models.pixel import PixelModel


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def make_model(kind, nets):
    net_g, net_d = copy.deepcopy(nets)
    arguments = (net_g, {"pixel": L1Loss()}, sgd, lr_at, parts())
    if kind == "pixel":
        return PixelModel(*arguments)
    gan = GANLoss(gan_type="vanilla", loss_weight=0.1)
    return AdversarialModel(*arguments, net_d=net_d, gan=gan, make_optimizer_d=sgd)


def count_exchanges(part) -> list[int]:
    """Wrap for several ranks; every exchange adds the number of its gradients to the list."""
    exchanged: list[int] = []

    def hook(state, bucket):
        exchanged.append(bucket.buffer().numel())
        done: torch.futures.Future = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    part.forward = DistributedDataParallel(part.net, **BUFFERS_STAY, bucket_cap_mb=1000)
    part.forward.register_comm_hook(None, hook)
    return exchanged


def test_wrapping_for_several_ranks_warns_of_nothing(group):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PixelModel(make(NET_G), {"pixel": L1Loss()}, sgd, lr_at, parts(world_size=2))
    assert isinstance(model.g.forward, DistributedDataParallel)
    assert not model.g.forward.broadcast_buffers  # in new versions a property with the value of the new name


@pytest.mark.parametrize("kind", ["pixel", "adversarial"])
def test_gradients_are_exchanged_once_an_iteration(group, kind):
    torch.manual_seed(0)
    nets = (make(NET_G), make(NET_D[False]))
    data = batches(4)
    model, plain = make_model(kind, nets), make_model(kind, nets)
    exchanged = {name: count_exchanges(part) for name, part in model.trained().items()}
    for iteration in range(2):
        model.step(data, iteration)
        plain.step(data, iteration)
        for name, part in model.trained().items():
            # the first backward may come in several buckets; all gradients together pass once an iteration
            assert sum(exchanged[name]) == (iteration + 1) * sum(p.numel() for p in part.net.parameters()), name
            for ours, theirs in zip(part.net.parameters(), plain.trained()[name].net.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad)
                torch.testing.assert_close(ours, theirs)
