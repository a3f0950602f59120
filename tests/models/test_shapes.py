"""Networks and losses of the user's own whose results have another shape than promised: one line, no traceback."""

import pytest
import torch
from torch import nn

from tests.models.test_against_basicsr import NET_G, batches, lr_at, make, parts
from tgsr.losses.base import Loss
from tgsr.losses.pixel import L1Loss
from tgsr.models.pixel import PixelModel
from tgsr.utils.errors import ConfigError


def step(net, loss):
    model = PixelModel(net, {"own": loss}, lambda p: torch.optim.SGD(p, lr=0.1), lr_at, parts())
    return model.step(batches(1), 0)


class Returns(Loss):
    """Makes of the output's elements what the test wants."""

    def __init__(self, reduce) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, context):
        return self.reduce(context.outputs["sr"])


@pytest.mark.parametrize(
    ("reduce", "returned"),
    [
        (lambda x: x.mean(), r"a tensor of shape \(\)"),
        (lambda x: x.mean((2, 3)), r"a tensor of shape \(2, 3\)"),
        (lambda x: 0.5, "a float"),
    ],
)
def test_a_loss_that_is_not_one_value_per_sample(reduce, returned):
    text = rf"train.losses.own: Returns returns {returned}, but one value for each of 2 samples is wanted, \(2,\)"
    with pytest.raises(ConfigError, match=text):
        step(make(NET_G), Returns(reduce))
    assert step(make(NET_G), Returns(lambda x: x.mean((1, 2, 3)))).total.shape == (2,)


def test_a_network_that_is_not_of_the_scale():
    class Doubles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ConvTranspose2d(3, 3, 2, stride=2)

        def forward(self, lq):
            return self.body(lq)

    with pytest.raises(ConfigError) as caught:
        step(Doubles(), L1Loss())
    height, width = batches(1)[0].lq.shape[2:]
    sizes = [f"3x{height * k}x{width * k}" for k in (2, 1, 4)]
    text = "network_g: Doubles makes {} of {}, but the ground truth is {}: the scale is 4; ".format(*sizes)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("wrap", "returned"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: {"out": x, "mask": x}, "a mapping of out, mask"),
        (lambda x: None, "NoneType"),
    ],
)
def test_a_network_that_returns_no_image(wrap, returned):
    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 3, 1)

        def forward(self, lq):
            return wrap(self.body(lq))

    with pytest.raises(ConfigError, match=rf"network_g: the network returns {returned}; return a tensor, or a mapping"):
        step(Wraps(), L1Loss())
