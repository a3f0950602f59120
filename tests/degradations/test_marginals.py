"""Marginal distributions against basicsr's own branching, 10,000 draws each.

basicsr's data set and model run unchanged at batch 1; only their image operators are replaced by recorders, so that
what they drew can be read off and a draw costs microseconds.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from tests.basicsr_oracle import load_basicsr
from tgsr.degradations.kernels import KERNEL_TYPES
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import RESIZE_MODES, X4PLUS
from tgsr.degradations.second_order import SecondOrderSpace

NUM = 10_000
P_VALUE = 1e-4
_SIDE = 4_000_000
"""Pretended size of the image, so that the factor can be read off the size of the second resize."""


@pytest.fixture(scope="module")
def ours() -> DegradationParams:
    space = SecondOrderSpace()
    return space.draw(np.random.default_rng(7).random((NUM, space.num_uniforms)))


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def kernel_draws(patch: pytest.MonkeyPatch) -> list[list[dict]]:
    """What basicsr's data set draws: for each sample the first kernel, the second, and the final one where there is."""
    module = load_basicsr("basicsr.data.realesrgan_dataset")
    oracle = load_basicsr("basicsr.data.degradations")
    events: list[dict] = []

    def density(family: int, size: int, sx: float, sy: float, theta: float, beta: float, isotropic: bool) -> np.ndarray:
        kind = 2 * family + (not isotropic)
        events.append({"size": size, "type": kind, "sigma_x": sx, "sigma_y": sy, "theta": theta, "beta": beta})
        return np.ones((size, size))

    def gauss(size, sx, sy, theta, grid=None, isotropic=True):
        return density(0, size, sx, sy, theta, math.nan, isotropic)

    def generalised(size, sx, sy, theta, beta, grid=None, isotropic=True):
        return density(1, size, sx, sy, theta, beta, isotropic)

    def plateau(size, sx, sy, theta, beta, grid=None, isotropic=True):
        return density(2, size, sx, sy, theta, beta, isotropic)

    def sinc(omega, size, pad_to=0):
        events.append({"size": size, "omega": omega, "final": pad_to == 21})
        return np.ones((max(size, pad_to),) * 2)

    patch.setattr(oracle, "bivariate_Gaussian", gauss)
    patch.setattr(oracle, "bivariate_generalized_Gaussian", generalised)
    patch.setattr(oracle, "bivariate_plateau", plateau)
    patch.setattr(module, "circular_lowpass_kernel", sinc)
    image = np.zeros((400, 400, 1), dtype=np.float32)
    patch.setattr(module, "imfrombytes", lambda *a, **k: image)
    patch.setattr(module, "augment", lambda img, *a: img)
    patch.setattr(module, "img2tensor", lambda img, **k: img)
    dataset = module.RealESRGANDataset.__new__(module.RealESRGANDataset)
    dataset.opt = {**X4PLUS, "use_hflip": True, "use_rot": False}
    for key, value in X4PLUS.items():
        setattr(dataset, key, value)
    dataset.file_client = types.SimpleNamespace(get=lambda *a: b"")
    dataset.paths = ["x"]
    dataset.kernel_range = [2 * v + 1 for v in range(3, 11)]
    dataset.pulse_tensor = torch.zeros(1)
    module.random.seed(0)
    np.random.seed(0)
    draws = []
    for _ in range(NUM):
        events.clear()
        dataset[0]
        draws.append(list(events))
    return draws


@pytest.fixture(scope="module")
def model_draws(patch: pytest.MonkeyPatch) -> list[list[tuple]]:
    """What basicsr's model draws at batch 1, as the sequence of the operators it calls."""
    module = load_basicsr("basicsr.models.realesrgan_model")
    oracle = load_basicsr("basicsr.data.degradations")
    events: list[tuple] = []
    tiny = torch.zeros(1, 3, 1, 1)

    def interpolate(x, scale_factor=None, size=None, mode=None):
        events.append(("resize", scale_factor if size is None else size[0] / (_SIDE / 4), mode))
        return tiny

    def gaussian(img, sigma, gray):
        events.append(("gaussian", sigma.item(), gray.item()))
        return tiny

    def poisson(img, scale, gray):
        events.append(("poisson", scale.item(), gray.item()))
        return tiny

    def jpeg(x, quality):
        events.append(("jpeg", quality.item()))
        return tiny

    def filter_2d(x, kernel):
        events.append(("blur",))
        return tiny

    patch.setattr(module, "F", types.SimpleNamespace(interpolate=interpolate))
    patch.setattr(oracle, "generate_gaussian_noise_pt", gaussian)
    patch.setattr(oracle, "generate_poisson_noise_pt", poisson)
    patch.setattr(module, "filter2D", filter_2d)
    patch.setattr(module, "paired_random_crop", lambda gts, lq, *a: (gts, lq))
    model = module.RealESRGANModel.__new__(module.RealESRGANModel)
    model.opt, model.device, model.is_train = {**X4PLUS, "gray_noise_prob": 0.4, "gt_size": 256}, "cpu", True
    model.jpeger, model.usm_sharpener = jpeg, lambda x: x
    model._dequeue_and_enqueue = lambda: None
    data = {"gt": tiny.expand(1, 3, _SIDE, _SIDE), "kernel1": tiny, "kernel2": tiny, "sinc_kernel": tiny}
    module.random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draws = []
    for _ in range(NUM):
        events.clear()
        model.feed_data(data)
        draws.append(list(events))
    return draws


def _same_shares(a: np.ndarray, b: np.ndarray) -> None:
    values = np.union1d(a, b)
    table = np.array([[np.sum(x == v) for v in values] for x in (a, b)])
    assert stats.chi2_contingency(table).pvalue > P_VALUE, table


def _same_law(a: np.ndarray, b: np.ndarray) -> None:
    assert len(a) > 50
    assert len(b) > 50
    assert stats.ks_2samp(a, b).pvalue > P_VALUE


@pytest.mark.parametrize("stage", [1, 2])
def test_blur_kernels(stage: int, ours: DegradationParams, kernel_draws: list[list[dict]]) -> None:
    theirs = [d[stage - 1] for d in kernel_draws]
    is_sinc = np.array(["omega" in d for d in theirs])
    _same_shares(is_sinc, ours[f"kernel{stage}_is_sinc"] == 1)
    _same_shares(np.array([d["size"] for d in theirs]), ours[f"kernel{stage}_size"])
    own = {k: ours[f"kernel{stage}_{k}"] for k in ("size", "omega", "type", "sigma_x", "sigma_y", "theta")}
    density = ours[f"kernel{stage}_is_sinc"] == 0
    for small in (True, False):
        omega = np.array([d["omega"] for d in theirs if "omega" in d and (d["size"] < 13) == small])
        _same_law(omega, own["omega"][~density & ((own["size"] < 13) == small)])
    plain = [d for d in theirs if "type" in d]
    kind = np.array([d["type"] for d in plain])
    _same_shares(kind, own["type"][density])
    column = {k: np.array([d[k] for d in plain]) for k in ("sigma_x", "sigma_y", "theta", "beta")}
    _same_law(column["sigma_x"], own["sigma_x"][density])
    for code, name in enumerate(KERNEL_TYPES):
        mine, his = density & (own["type"] == code), kind == code
        if "aniso" in name:
            _same_law(column["sigma_y"][his], own["sigma_y"][mine])
            _same_law(column["theta"][his], own["theta"][mine])
        if code >= 2:
            beta = ours[f"kernel{stage}_beta_{'g' if code < 4 else 'p'}"][mine]
            _same_shares(column["beta"][his] <= 1, beta <= 1)
            _same_law(column["beta"][his], beta)


def test_final_sinc(ours: DegradationParams, kernel_draws: list[list[dict]]) -> None:
    final = [d[2] for d in kernel_draws if len(d) == 3]
    assert all(d["final"] for d in final)
    _same_shares(np.array([len(d) == 3 for d in kernel_draws]), ours["final_sinc"] == 1)
    used = ours["final_sinc"] == 1
    _same_shares(np.array([d["size"] for d in final]), ours["final_size"][used])
    _same_law(np.array([d["omega"] for d in final]), ours["final_omega"][used])


def _stage_events(draw: list[tuple], stage: int) -> dict[str, tuple]:
    noises = [i for i, e in enumerate(draw) if e[0] in ("gaussian", "poisson")]
    place = noises[stage - 1]
    return {"resize": draw[place - 1], "noise": draw[place]}


@pytest.mark.parametrize("stage", [1, 2])
def test_resize_and_noise(stage: int, ours: DegradationParams, model_draws: list[list[tuple]]) -> None:
    theirs = [_stage_events(d, stage) for d in model_draws]
    scale = np.array([d["resize"][1] for d in theirs])
    mine = ours[f"resize{stage}_scale"]
    slack = 1e-5  # the second factor is read off a rounded size
    _same_shares(np.sign(np.round((scale - 1) / slack / 4)), np.sign(np.round((mine - 1) / slack / 4)))
    _same_law(scale[scale < 1 - slack], mine[mine < 1 - slack])
    _same_law(scale[scale > 1 + slack], mine[mine > 1 + slack])
    mode = np.array([RESIZE_MODES.index(d["resize"][2]) for d in theirs])
    _same_shares(mode, ours[f"resize{stage}_mode"])
    gaussian = np.array([d["noise"][0] == "gaussian" for d in theirs])
    own_gaussian = ours[f"noise{stage}_kind"] == 0
    _same_shares(gaussian, own_gaussian)
    level = np.array([d["noise"][1] for d in theirs])
    _same_law(level[gaussian], ours[f"noise{stage}_sigma_255"][own_gaussian])
    _same_law(level[~gaussian], ours[f"noise{stage}_poisson_scale"][~own_gaussian])
    _same_shares(np.array([d["noise"][2] for d in theirs]), ours[f"noise{stage}_is_gray"])


def test_jpeg_second_blur_and_final_order(ours: DegradationParams, model_draws: list[list[tuple]]) -> None:
    for stage in (1, 2):
        quality = np.array([[e for e in d if e[0] == "jpeg"][stage - 1][1] for d in model_draws])
        _same_law(quality, ours[f"jpeg{stage}_quality"])
    blurs = np.array([sum(e[0] == "blur" for e in d) for d in model_draws])
    assert set(blurs) == {2, 3}
    _same_shares(blurs == 3, ours["blur2"] == 1)
    _same_shares(np.array([d[-1][0] == "blur" for d in model_draws]), ours["final_order"] == 1)
    last = np.array([RESIZE_MODES.index([e for e in d if e[0] == "resize"][2][2]) for d in model_draws])
    _same_shares(last, ours["final_mode"])


def test_no_hidden_correlation_between_columns(ours: DegradationParams) -> None:
    names = [c for c in ours if ours[c].std() > 0 and not c.endswith("_scale")]
    matrix = np.corrcoef(np.stack([ours[c].astype(float) for c in names]))
    linked = {("kernel1_size", "kernel1_omega"), ("kernel2_size", "kernel2_omega")}
    for i, a in enumerate(names):
        for j in range(i):
            if (names[j], a) not in linked:
                assert abs(matrix[i, j]) < 0.05, (a, names[j])
