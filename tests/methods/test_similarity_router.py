"""Adaptive selection of GRIDS: both rules, small and constant images, files."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from tgsr.config.spec import Kind, Spec
from tgsr.degradations.named import NamedMixSpace
from tgsr.degradations.params import DegradationParams
from tgsr.methods.grids.descriptor import NetworkDescriptor
from tgsr.methods.grids.discriminant import (
    difference_statistics,
    fit_discriminant,
)
from tgsr.methods.grids.ggd import GGD, kl_divergence, log_distance, mean_ggd
from tgsr.methods.grids.router import (
    RoutedGroup,
    Router,
    Sampling,
    image_features,
    image_ggd,
)
from tgsr.methods.grids.routing import auroc
from tgsr.methods.grids.tasks import named_tasks
from tgsr.utils.errors import ConfigError, DataError

NAMES = ("defocus", "gaussian_noise", "salt_pepper")
SAMPLING = Sampling(patch_px=32, num_patches=60, num_components=60)


def tiny_descriptor():
    return NetworkDescriptor(network=Spec(Kind("tgsr.archs:ARCHS"), "MSRResNet", {"num_feat": 8, "num_block": 1}))


def clean_images(num, edge=96, seed=0):
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(seed)
    images = []
    for i in range(num):
        photo = photos[i % 4]
        top, left = (rng.integers(n - edge) for n in photo.shape[:2])
        images.append(torch.from_numpy(photo[top : top + edge, left : left + edge]).permute(2, 0, 1).float() / 255)
    return torch.stack(images)


def degraded(name, images, seed=0):
    task = named_tasks(space=NamedMixSpace(degradations=list(NAMES)))[NAMES.index(name)]
    params = DegradationParams.cat([task.draw(seed, "test", i) for i in range(len(images))])
    return task.space.pipeline.apply(images, params)


@pytest.fixture(scope="module")
def router():
    descriptor = tiny_descriptor()
    statistics, labels, images, ggds = [], [], [], []
    for label, name in enumerate(NAMES):
        found = []
        for i, image in enumerate(degraded(name, clean_images(16))):
            features = image_features(descriptor, image, SAMPLING)
            statistics.append(difference_statistics(features))
            labels.append(label)
            images.append(i)
            found.append(image_ggd(features, SAMPLING))
        ggds.append(mean_ggd(found))
    return Router(
        groups=[RoutedGroup("blur", ("defocus",), "blur.pth"), RoutedGroup("noise", NAMES[1:], "noise.pth")],
        degradations=NAMES,
        ggds=ggds,
        descriptor=descriptor,
        sampling=SAMPLING,
        rule="discriminant",
        ood_share=0.03,
        discriminant=fit_discriminant(np.array(statistics), np.array(labels), images),
    )


def test_discriminant_finds_the_group_of_new_images(router):
    fresh = clean_images(8, seed=5)
    hits = [
        router.choose(image).name == ("blur" if name == "defocus" else "noise")
        for name in NAMES
        for image in degraded(name, fresh, seed=9)
    ]
    assert np.mean(hits) >= 0.9
    choice = router.choose(degraded("defocus", fresh)[0])
    assert 0 <= choice.confidence <= 1
    assert choice.weights.name == "blur.pth"


def test_discriminant_flags_what_it_has_never_seen(router):
    chessboard = (torch.arange(96)[:, None] + torch.arange(96)) % 2
    assert router.choose(chessboard.expand(3, -1, -1).float()).is_ood
    known = [router.choose(i).is_ood for n in NAMES for i in degraded(n, clean_images(8, seed=5), seed=9)]
    assert np.mean(known) < 0.35


def test_papers_rule_is_equation_7(router):
    found = GGD(0.7, 1.3)
    kl = [kl_divergence(g, found) for g in router.group_ggds]
    choice = router.choose_by_divergence(found)
    assert choice.group == int(np.argmin(kl))
    assert choice.divergence == pytest.approx(log_distance(min(kl)))
    assert choice.is_ood == (choice.divergence > 4)
    assert router.choose_by_divergence(GGD(0.7, 1e4)).is_ood
    exact = router.choose_by_divergence(router.group_ggds[1])
    assert exact.group == 1
    assert exact.divergence == pytest.approx(0, abs=1e-9)


def test_small_and_constant_images(router, tmp_path):
    small = torch.rand(3, 9, 40)
    for rule in ("divergence", "discriminant"):
        router.rule = rule
        assert router.choose(small).name in ("blur", "noise")
        assert router.choose(torch.rand(3, 1, 5)).name in ("blur", "noise")
        constant = router.choose(torch.full((3, 80, 80), 0.25))
        assert constant.is_ood
        assert constant.confidence == 0
        assert "constant" in constant.note
        red = router.choose(torch.tensor([0.9, 0.1, 0.2])[:, None, None].expand(3, 80, 80))
        assert red.is_ood
        assert red.confidence == 0
        assert "constant" in red.note
    router.rule = "discriminant"
    assert router.choose(small[None]).name == router.choose(small).name


def test_large_images_use_a_window(router):
    descriptor, sampling = tiny_descriptor(), Sampling(patch_px=32, max_pixels=10_000)
    features = image_features(descriptor, torch.rand(3, 300, 500), sampling)
    assert features.shape[1] * features.shape[2] <= 10_000
    start = time.perf_counter()
    router.choose(torch.rand(3, 1500, 1500))
    assert time.perf_counter() - start < 2


def test_file_round_trip(router, tmp_path):
    router.save(tmp_path / "router.json")
    again = Router.load(tmp_path / "router.json")
    image = degraded("salt_pepper", clean_images(1, seed=3))[0]
    mine, theirs = router.choose(image), again.choose(image)
    assert (mine.group, mine.confidence, mine.is_ood) == (theirs.group, theirs.confidence, theirs.is_ood)
    assert theirs.weights == tmp_path / "noise.pth"
    papers = Router.load(tmp_path / "router.json", rule="divergence")
    assert papers.choose(image).divergence != mine.divergence
    (tmp_path / "router.npz").unlink()
    with pytest.raises(DataError, match="copy both"):
        Router.load(tmp_path / "router.json")
    (tmp_path / "router.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(DataError, match="not a tgsr.router file .*BuildRouter"):
        Router.load(tmp_path / "router.json")


def test_groups_must_fit_the_degradations(router):
    with pytest.raises(DataError, match="'haze', a degradation unknown"):
        Router([RoutedGroup("a", ("haze", *NAMES))], NAMES, router.ggds, router.descriptor)
    with pytest.raises(DataError, match="no group holds salt_pepper"):
        Router([RoutedGroup("a", NAMES[:2])], NAMES, router.ggds, router.descriptor)
    with pytest.raises(DataError, match="no discriminant"):
        Router([RoutedGroup("a", NAMES)], NAMES, router.ggds, router.descriptor, rule="discriminant")


def test_discriminant_is_calibrated_lda():
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, (4, 6))
    labels = np.tile(np.arange(4), 60)
    values = means[labels] + rng.normal(size=(240, 6))
    found = fit_discriminant(values, labels, np.repeat(np.arange(60), 4), shrinkage=0.0)
    fresh = means[labels] + rng.normal(size=(240, 6))
    assert (found.posteriors(fresh).argmax(1) == labels).mean() > 0.6
    assert np.allclose(found.posteriors(fresh).sum(1), 1)
    assert 0.4 < found.temperature < 2.5
    tails = [found.tail(d) for d in found.distances_to(fresh).min(1)]
    assert np.mean(np.array(tails) <= 0.1) == pytest.approx(0.1, abs=0.07)
    with pytest.raises(DataError, match="too few"):
        fit_discriminant(values[:8], labels[:8], [0] * 4 + [1] * 4)


def test_statistics_of_known_differences():
    ramp = torch.arange(12.0)[None, None].expand(1, 5, 12)
    shape_x, spread_x, shape_y, spread_y = difference_statistics(ramp)
    assert spread_x == pytest.approx(0, abs=1e-9)
    assert shape_x == 9.999
    assert spread_y == pytest.approx(np.log(1e-12) / 2, abs=1e-6)
    normal = torch.randn(1, 200, 400, generator=torch.Generator().manual_seed(0))
    assert difference_statistics(normal)[0] == pytest.approx(2, abs=0.1)
    with pytest.raises(DataError, match="larger image"):
        difference_statistics(torch.rand(3, 1, 1))


def test_named_tasks_need_their_space():
    tasks = named_tasks(space=NamedMixSpace(), names=["jpeg", "sr"])
    assert tasks.names == ["jpeg", "sr"]
    with pytest.raises(ConfigError, match="jpeg"):
        named_tasks(space=NamedMixSpace(), names=["jpg"])
    with pytest.raises(ConfigError, match="NamedMix"):
        named_tasks(space=None)


def test_layers_behind_the_upsampling_describe_too():
    """The feature map is larger than the image: a patch has more feature pixels than image pixels."""
    network = Spec(Kind("tgsr.archs:ARCHS"), "MSRResNet", {"num_feat": 8, "num_block": 1, "upscale": 4})
    descriptor = NetworkDescriptor(network=network, layer="conv_hr")
    sampling = Sampling(patch_px=16, num_patches=20, num_components=20)
    features = image_features(descriptor, torch.rand(3, 24, 24), sampling)
    assert features.shape[1:] == (96, 96)
    assert descriptor.stride == 0.25
    ggd = image_ggd(features, sampling, stride=descriptor.stride)
    assert np.isfinite([ggd.alpha, ggd.sigma]).all()
    with pytest.raises(DataError, match="do not vary"):  # a patch of 64 x 64 features has one place only
        image_ggd(features[:, :64, :64], sampling, stride=0.25)


def test_descriptor_weights_are_found_from_any_folder(router, tmp_path, monkeypatch):
    weights = tmp_path / "experiments/descriptor/net.pth"
    weights.parent.mkdir(parents=True)
    torch.save({"params": tiny_descriptor().net.state_dict()}, weights)
    monkeypatch.chdir(tmp_path)
    network = Spec(Kind("tgsr.archs:ARCHS"), "MSRResNet", {"num_feat": 8, "num_block": 1})
    trained = NetworkDescriptor(network=network, weights=Path("experiments/descriptor/net.pth"))
    replace(router, descriptor=trained).save("experiments/router/router.json")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = Router.load("../experiments/router/router.json")
    assert (found.folder / "../descriptor/net.pth").exists()
    found.save(tmp_path / "copy/router.json")  # and again from there
    monkeypatch.chdir("/")
    image = clean_images(1)[0]
    assert torch.equal(
        Router.load(tmp_path / "copy/router.json").descriptor.features(image[None]), trained.features(image[None])
    )


def four_classes(num_images=60, seed=3):
    """Gaussian classes of very different spread around their centres; one image each in every class."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(4), num_images)
    spread = np.array([0.2, 1.0, 1.0, 2.0])[labels]
    values = 8 * np.eye(4)[labels] + rng.normal(0, 1, (len(labels), 4)) * spread[:, None]
    return values, labels, np.repeat(np.arange(num_images), 4)


def test_p_values_of_a_class_are_uniform_over_its_own_images():
    """A pooled null calls the wide class unknown and the narrow one never; each class's own null treats all alike."""
    found = fit_discriminant(*four_classes())
    values, labels, _ = four_classes(200, seed=4)
    distances = found.distances_to(values)
    own = np.array([found.p_values(d)[k] for d, k in zip(distances, labels, strict=True)])
    pooled = np.array([found.tail(d.min()) for d in distances])
    flagged = [np.mean(own[labels == k] <= 0.1) for k in range(4)]
    assert max(flagged) < 0.2
    assert min(flagged) > 0.02
    pooled_flagged = [np.mean(pooled[labels == k] <= 0.1) for k in range(4)]
    assert pooled_flagged[0] == 0
    assert pooled_flagged[3] > 0.25
    assert found.p_values(np.full(4, 1e9)) == pytest.approx(np.full(4, 1 / 61))  # at least one in its own null


def test_a_clean_class_leaves_images_alone(router, tmp_path):
    values, labels, images = four_classes()
    found = replace(router, discriminant=fit_discriminant(values, labels, images), null="class", ood_share=0.05)
    assert found.has_clean
    clean = found.choose_by_discriminant(8 * np.eye(4)[3])
    assert (clean.is_clean, clean.name, clean.weights, clean.group) == (True, "clean", None, 2)
    noisy = found.choose_by_discriminant(8 * np.eye(4)[1])
    assert (noisy.is_clean, noisy.name, noisy.is_ood) == (False, "noise", False)
    assert noisy.divergence is None
    assert noisy.mahalanobis < 1
    assert found.choose_by_discriminant(np.full(4, 99.0)).is_ood
    found.save(tmp_path / "router.json")
    again = Router.load(tmp_path / "router.json")
    assert (again.null, again.has_clean) == ("class", True)
    assert again.choose_by_discriminant(8 * np.eye(4)[3]).is_clean
    with np.load(tmp_path / "router.npz") as arrays:
        old = {k: arrays[k] for k in arrays.files if k != "own"}
    np.savez(tmp_path / "router.npz", **old)
    with pytest.raises(DataError, match="no distances of single classes"):
        Router.load(tmp_path / "router.json")


def test_auroc_by_hand():
    known = [(0.1, 0.0), (0.2, 0.0), (0.3, 0.0)]
    assert auroc(known, [(0.9, 0.0)]) == 1
    assert auroc(known, [(0.0, 0.0)]) == 0
    assert auroc(known, [(0.2, 0.0)]) == pytest.approx(0.5)  # above one, a tie with one, below one
    assert auroc(known, [(0.2, 1.0)]) == pytest.approx(2 / 3)  # the tie is broken
