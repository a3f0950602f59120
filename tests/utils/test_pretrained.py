"""Where weights are looked for, and what is said when there are none."""

import pytest
import torch

from tgsr.utils.errors import UserError
from tgsr.utils.pretrained import ADDRESSES, find_weights, load_pretrained


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_addresses_are_torchvisions():
    models = pytest.importorskip("torchvision.models")
    for name, address in ADDRESSES.items():
        assert models.get_model_weights(name)["IMAGENET1K_V1"].url == address


def test_cache_is_used_before_the_network(hub, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    hub.mkdir(parents=True)
    torch.save({"a": torch.ones(2)}, hub / "vgg19-dcbb9e9d.pth")
    assert find_weights("vgg19") == hub / "vgg19-dcbb9e9d.pth"
    assert load_pretrained("vgg19")["a"].tolist() == [1, 1]


def test_download_goes_to_the_cache_with_the_hash(hub, monkeypatch):
    def fetch(address, place, hash_prefix, progress):
        assert (address, hash_prefix) == (ADDRESSES["vgg16"], "397923af")
        torch.save({"a": torch.zeros(1)}, place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert list(load_pretrained("vgg16")) == ["a"]
    assert (hub / "vgg16-397923af.pth").is_file()


def test_without_network_the_message_says_what_to_do(hub, monkeypatch):
    def fetch(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError) as error:
        load_pretrained("alexnet")
    for part in ("no route to host", ADDRESSES["alexnet"], str(hub / "alexnet-owt-7be5be79.pth")):
        assert part in str(error.value)
    with pytest.raises(UserError, match="not here"):
        find_weights("alexnet", download=False)


def test_given_path_is_the_only_place(hub, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file"):
        find_weights("vgg19", path=tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not weights at all"])
def test_damaged_file(tmp_path, content):
    (tmp_path / "vgg.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"vgg\.pth: damaged"):
        load_pretrained("vgg19", path=tmp_path / "vgg.pth")


def test_foreign_file(tmp_path):
    torch.save({"params": {"a": torch.ones(1)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not the state dict of vgg19"):
        load_pretrained("vgg19", path=tmp_path / "x.pth")
