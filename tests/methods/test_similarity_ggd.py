"""GGD fit, divergence and similarity matrix of GRIDS, against quadrature, scipy and direct PCA."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from skimage import data

from tgsr.config.spec import Kind, Spec
from tgsr.degradations.named import GRIDS_DEGRADATIONS, NamedMixSpace
from tgsr.methods.grids.descriptor import (
    NetworkDescriptor,
    PixelDescriptor,
    SIFTDescriptor,
    VGGDescriptor,
    descriptor_from_json,
)
from tgsr.methods.grids.ggd import (
    GGD,
    fit_ggd,
    kl_divergence,
    log_distance,
    mean_ggd,
    pca_projections,
    remove_outliers,
    shape_from_ratio,
    shape_ratio,
)
from tgsr.methods.grids.paper_values import TABLE2_DISTANCES
from tgsr.methods.grids.similarity import (
    Similarity,
    feature_gram,
    measure_similarity,
    represent,
    similarity_of,
)
from tgsr.methods.grids.tasks import named_tasks
from tgsr.utils.errors import ConfigError, DataError

ARCH = Kind("tgsr.archs:ARCHS")


def tiny_descriptor(**arguments):
    network = Spec(ARCH, "MSRResNet", {"num_feat": 8, "num_block": 2})
    return NetworkDescriptor(network=network, **arguments)


def photo_patches(num, edge=32):
    images = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    crops = []
    for i in range(num):
        image = images[i % len(images)]
        top, left = (rng.integers(n - edge) for n in image.shape[:2])
        crops.append(image[top : top + edge, left : left + edge])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    ("p", "q", "kl", "ell"),
    [
        ((2, 1), (2, 2), 0.318147181, 4.502642),
        ((1, 1), (2, 1), 0.072364943, 3.859588),
        ((2, 1), (1, 1), 0.056014224, 3.748376),
        ((0.7, 0.5), (1.3, 0.8), 0.241276691, 4.382533),
        ((1.2, 2), (1.25, 2.05), 0.000800364, 1.908680),
    ],
)
def test_kl_test_vectors(p, q, kl, ell):
    found = kl_divergence(GGD(*p), GGD(*q))
    assert found == pytest.approx(kl, abs=1e-9)
    assert log_distance(found) == pytest.approx(ell, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_kl_against_quadrature(seed):
    rng = np.random.default_rng(seed)
    p, q = (GGD(float(rng.uniform(0.6, 3)), float(rng.uniform(0.5, 2))) for _ in range(2))
    densities = [stats.gennorm(g.alpha, scale=g.beta) for g in (p, q)]
    assert densities[0].std() == pytest.approx(p.sigma)

    def integrand(x):
        return densities[0].pdf(x) * (densities[0].logpdf(x) - densities[1].logpdf(x))

    expected = 2 * integrate.quad(integrand, 0, 60 * p.sigma, limit=400)[0]
    assert kl_divergence(p, q) == pytest.approx(expected, rel=1e-5)


def test_kl_extremes_stay_finite():
    assert kl_divergence(GGD(1, 1), GGD(1, 1)) == 0
    assert log_distance(0.0) == pytest.approx(0)
    assert math.isfinite(kl_divergence(GGD(0.2, 1e4), GGD(9.999, 1e-4)))
    assert kl_divergence(GGD(0.2, 1e4), GGD(9.999, 1e-4)) > 1e6


def test_shape_ratio_and_its_inverse():
    assert shape_ratio(2) == pytest.approx(math.pi / 2)
    assert shape_ratio(1) == pytest.approx(2)
    assert shape_ratio(0.2) == pytest.approx(15.889, abs=1e-3)
    for alpha in (0.2, 0.5, 1.0, 2.0, 7.321):
        assert shape_from_ratio(shape_ratio(alpha)) == pytest.approx(alpha, abs=1e-9)
    assert shape_from_ratio(100.0) == 0.2
    assert shape_from_ratio(1.0) == 9.999
    assert shape_from_ratio(np.array([[2.0, math.pi / 2]])).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 3.0), (1.5, 0.2), (2.0, 1.0)])
def test_fit_recovers_a_sample(alpha, sigma):
    true = GGD(alpha, sigma)
    values = stats.gennorm(alpha, scale=true.beta).rvs(200_000, random_state=1)
    found = fit_ggd(values, num_sigma=50)
    assert found.alpha == pytest.approx(alpha, rel=0.03)
    assert found.sigma == pytest.approx(sigma, rel=0.01)


def test_outliers_one_pass():
    values = np.concatenate([np.linspace(-1, 1, 1000), [100.0]])
    assert remove_outliers(values).max() == 1


def test_degenerate_features_are_an_error():
    with pytest.raises(DataError, match="constant"):
        fit_ggd(np.zeros(100))
    with pytest.raises(DataError, match="NaN"):
        fit_ggd(np.array([1.0, np.nan, 2.0]))
    with pytest.raises(DataError, match="constant"):
        represent(PixelDescriptor(), torch.full((6, 3, 8, 8), 0.3))
    with pytest.raises(DataError, match="too few"):
        represent(PixelDescriptor(), torch.rand(1, 3, 8, 8))


def test_gram_pca_is_pca():
    patches = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = pca_projections(feature_gram(PixelDescriptor(), patches, batch_size=7), 10)
    flat = patches.flatten(1).double().numpy()
    centred = flat - flat.mean(0)
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    direct = centred @ rows[:10].T
    assert np.abs(np.abs(found) - np.abs(direct)).max() < 1e-3
    assert np.abs(found.mean(0)).max() < 1e-4
    assert pca_projections(np.eye(5), 300).shape == (5, 4)


def test_gram_from_a_file_is_the_same():
    patches = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    in_memory = feature_gram(tiny_descriptor(), patches)
    assert np.allclose(in_memory, feature_gram(tiny_descriptor(), patches, memory_mb=0), rtol=1e-4, atol=1e-5)


def test_layer_descriptor_is_the_layer_and_skips_the_rest():
    network = Spec(ARCH, "MSRResNet", {"num_feat": 8, "num_block": 2})
    descriptor = tiny_descriptor(layer="body", seed=3)
    calls = []
    descriptor.net.conv_last.register_forward_hook(lambda *_: calls.append(1))
    images = torch.rand(2, 3, 16, 12)
    features = descriptor.features(images)
    net = descriptor.net
    expected = net.body(torch.nn.functional.leaky_relu(net.conv_first(images), 0.1))
    assert torch.allclose(features, expected, atol=1e-6)
    assert not calls
    again = descriptor_from_json(descriptor.to_json())
    assert torch.equal(again.features(images), features)
    with pytest.raises(ConfigError, match=r"body\.1"):
        NetworkDescriptor(network=network, layer="body.l")


def test_sift_and_vgg_alternatives():
    images = photo_patches(2, 32)
    sift = SIFTDescriptor().features(images)
    assert sift.shape == (2, 128, 4, 4)
    assert 0 <= sift.min() < sift.max() <= 1
    vgg = VGGDescriptor(layer=4, pretrained=False)
    assert vgg.features(images).shape == (2, 64, 16, 16)
    assert vgg.stride == 2
    shallow = VGGDescriptor(layer=15, vgg_type="vgg16", pretrained=False)
    assert shallow.features(images).shape == (2, 256, 8, 8)
    with pytest.raises(ConfigError, match="vgg16 has no layer 31"):
        VGGDescriptor(layer=31, vgg_type="vgg16", pretrained=False)


def test_matrix_symmetric_saved_and_refused(tmp_path):
    ggds = [GGD(0.5, 1.0), GGD(0.6, 1.2), GGD(1.4, 4.0)]
    similarity = similarity_of(["a", "b", "c"], ggds, {"seed": 5})
    matrix = similarity.matrix
    assert np.allclose(matrix, matrix.T)
    assert np.allclose(np.diag(matrix), 0)
    expected = (log_distance(kl_divergence(ggds[0], ggds[2])) + log_distance(kl_divergence(ggds[2], ggds[0]))) / 2
    assert matrix[0, 2] == pytest.approx(expected)
    assert similarity.mean_distance(["a", "b", "c"]) == pytest.approx(matrix[np.triu_indices(3, 1)].mean())
    assert similarity.mean_distance(["a"]) == 0
    similarity.save(tmp_path / "similarity.npz")
    again = Similarity.load(tmp_path / "similarity.npz")
    assert again.names == similarity.names
    assert again.ggds == similarity.ggds
    assert again.about == {"seed": 5}
    assert np.array_equal(again.kl, similarity.kl)
    with pytest.raises(DataError, match="no degradation 'haze'"):
        again.mean_distance(["a", "haze"])
    with pytest.raises(DataError, match="similarity stage"):
        Similarity.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="not a similarity"):
        Similarity.load(tmp_path / "bad.npz")


def test_group_ggd_is_the_mean():
    assert mean_ggd([GGD(1, 2), GGD(3, 6)]) == GGD(2, 4)


@pytest.mark.parametrize("kind", ["untrained", "pixels"])
def test_similarity_order_of_the_paper(kind):
    """A regression test of operators and estimator; raw pixels pass it too, so it proves nothing about a descriptor."""
    descriptor = tiny_descriptor() if kind == "untrained" else PixelDescriptor()
    tasks = named_tasks(space=NamedMixSpace())
    assert tuple(tasks.names) == GRIDS_DEGRADATIONS
    found = measure_similarity(descriptor, photo_patches(96, 48), tasks, batch_size=32)
    measured = [found.mean_distance(group) for group, _ in TABLE2_DISTANCES]
    assert max(measured[:4]) < min(measured[4:])
    rank = stats.spearmanr(measured, [d for _, d in TABLE2_DISTANCES]).statistic
    assert rank > 0.85
    repeated = measure_similarity(descriptor, photo_patches(96, 48), tasks.subset(["sr", "poisson"]), batch_size=32)
    assert repeated.ggds[0].sigma == pytest.approx(found.ggds[found.index("sr")].sigma, rel=1e-5)
