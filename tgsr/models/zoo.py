"""Published weights by name: where each comes from, which network it is, and `weights/NAME.pth`, where it is kept.

A SHA-256 is given where one is published (with the release, in the file's name, by Arch Linux's packages, OpenModelDB
or the pointers of Git LFS); other files are checked by loading them into their network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgsr.archs import ARCHS
from tgsr.utils.download import download
from tgsr.utils.errors import CheckpointError, ConfigError, DataError, UserError
from tgsr.utils.registry import did_you_mean

FOLDER = Path("weights")
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Published:
    """Weights that others have published.

    Attributes:
        about: what they are for.
        network: registered name.
        settings: arguments of its constructor.
        scale: output size divided by input size.
        urls: addresses of the file, tried in order; none: a person has to get it.
        page: the authors' page.
        terms: licence.
        size: bytes, where known.
        sha256: as published, whole or the first digits; None: none is published.
        member: name of the file inside the archive at the address.
    """

    about: str
    network: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: int = 4
    urls: tuple[str, ...] = ()
    page: str = ""
    terms: str = "not known here; read its page"
    size: int | None = None
    sha256: str | None = None
    member: str = ""

    @property
    def check(self) -> str:
        """How a file is checked."""
        return "SHA-256" if self.sha256 else "by loading it"


_GITHUB = "https://github.com"
_REAL_ESRGAN = f"{_GITHUB}/xinntao/Real-ESRGAN/releases/download"
_SWINIR = f"{_GITHUB}/JingyunLiang/SwinIR/releases/download/v0.0"
_KAIR = f"{_GITHUB}/cszn/KAIR/releases/download/v1.0"
_RESTORMER = f"{_GITHUB}/swz30/Restormer/releases/download/v1.0"
_HUGGING_FACE = "https://huggingface.co"

_RRDB = {"num_feat": 64, "num_block": 23, "num_grow_ch": 32}
_SRRESNET = {"num_feat": 64, "num_block": 16, "upscale": 4}
_SWINIR_M = {
    "upscale": 4,
    "img_size": 64,
    "window_size": 8,
    "depths": [6] * 6,
    "embed_dim": 180,
    "num_heads": [6] * 6,
    "mlp_ratio": 2,
    "upsampler": "pixelshuffle",
    "resi_connection": "1conv",
}
_SWINIR_L = {
    **_SWINIR_M,
    "depths": [6] * 9,
    "embed_dim": 240,
    "num_heads": [8] * 9,
    "upsampler": "nearest+conv",
    "resi_connection": "3conv",
}
_HAT = {
    **_SWINIR_M,
    "window_size": 16,
    "compress_ratio": 3,
    "squeeze_factor": 30,
    "conv_scale": 0.01,
    "overlap_ratio": 0.5,
}


def _real_esrgan(about: str, file: str, network: str, settings: Mapping[str, Any], **more: Any) -> Published:
    return Published(
        about, network, settings, urls=(f"{_REAL_ESRGAN}/{file}",), terms="BSD-3-Clause",
        page=f"{_GITHUB}/xinntao/Real-ESRGAN", **more,
    )  # fmt: skip


def _swinir(about: str, name: str, settings: Mapping[str, Any], **more: Any) -> Published:
    return Published(
        about, "SwinIR", settings, urls=(f"{_SWINIR}/{name}.pth",), terms="Apache-2.0",
        page=f"{_GITHUB}/JingyunLiang/SwinIR", **more,
    )  # fmt: skip


def _kair(about: str, file: str, network: str, settings: Mapping[str, Any], **more: Any) -> Published:
    return Published(
        about, network, settings, urls=(f"{_KAIR}/{file}",), page=f"{_GITHUB}/cszn/KAIR", **{"terms": "MIT", **more}
    )


def _hat(about: str, *mirrors: str, settings: Mapping[str, Any] = _HAT, **more: Any) -> Published:
    page = "https://drive.google.com/drive/folders/1HpmReFfoUqUbnAOQ7rvOeNU3uf_m69w0"
    urls = tuple(f"{_HUGGING_FACE}/{mirror}" for mirror in mirrors)
    return Published(about, "HAT", settings, urls=urls, page=page, terms="Apache-2.0", **more)


def _esrgan(about: str, name: str, sha256: str) -> Published:
    mirror = f"{_HUGGING_FACE}/databuzzword/esrgan/resolve/main/{name}.pth"
    return Published(
        about, "RRDBNet", _RRDB, urls=(mirror,), page=f"{_GITHUB}/xinntao/ESRGAN", terms="Apache-2.0", size=66929193,
        sha256=sha256,
    )  # fmt: skip


def _restormer(about: str, file: str, norm: str, sha256: str | None = None) -> Published:
    return Published(
        about, "Restormer", {"LayerNorm_type": norm}, 1, (f"{_RESTORMER}/{file}.pth",),
        f"{_GITHUB}/swz30/Restormer", sha256=sha256,
    )  # fmt: skip


def _tgsr(about: str, network: str, settings: Mapping[str, Any]) -> Published:
    page = "https://drive.google.com/drive/folders/1Q27_PvPFbEdJG3JglmsCUlMWGmC14FXQ"
    return Published(about, network, settings, page=page)


ZOO: dict[str, Published] = {
    "RealESRNet_x4plus": _real_esrgan(
        "Real-ESRGAN's first stage, pixel loss", "v0.1.1/RealESRNet_x4plus.pth", "RRDBNet", _RRDB,
        sha256="a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
    ),
    "RealESRGAN_x4plus": _real_esrgan(
        "general images", "v0.1.0/RealESRGAN_x4plus.pth", "RRDBNet", _RRDB, size=67040989,
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
    ),
    "RealESRGAN_x4plus_netD": _real_esrgan(
        "discriminator of RealESRGAN_x4plus", "v0.2.2.3/RealESRGAN_x4plus_netD.pth", "UNetDiscriminatorSN",
        {"num_in_ch": 3, "num_feat": 64, "skip_connection": True},
    ),
    "RealESRGAN_x2plus": _real_esrgan(
        "general images", "v0.2.1/RealESRGAN_x2plus.pth", "RRDBNet", {**_RRDB, "scale": 2}, scale=2, size=67061725,
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
    ),
    "RealESRGAN_x4plus_anime_6B": _real_esrgan(
        "drawings", "v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth", "RRDBNet", {**_RRDB, "num_block": 6}, size=17938799,
        sha256="f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
    ),
    "realesr-animevideov3": _real_esrgan(
        "drawn films", "v0.2.5.0/realesr-animevideov3.pth", "SRVGGNetCompact",
        {"num_feat": 64, "num_conv": 16, "upscale": 4}, size=2504012,
        sha256="b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
    ),
    "realesr-general-x4v3": _real_esrgan(
        "general images, small", "v0.2.5.0/realesr-general-x4v3.pth", "SRVGGNetCompact",
        {"num_feat": 64, "num_conv": 32, "upscale": 4}, size=4885111,
        sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
    ),
    "realesr-general-wdn-x4v3": _real_esrgan(
        "general images, small, keeps noise", "v0.2.5.0/realesr-general-wdn-x4v3.pth", "SRVGGNetCompact",
        {"num_feat": 64, "num_conv": 32, "upscale": 4}, size=4885111,
        sha256="1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
    ),
    "ESRGAN_SRx4_DF2KOST_official-ff704c30": _real_esrgan(
        "ESRGAN: where Real-ESRNet starts", "v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth", "RRDBNet", _RRDB,
        sha256="ff704c30ff560305e48ed1f4db895e525ab6bc81a46fafe80c0094a271c806d9",
    ),
    "ESRGAN_PSNR_SRx4_DF2K_official-150ff491": Published(
        "ESRGAN's first stage (RRDB_PSNR_x4 in BasicSR's names)", "RRDBNet", _RRDB,
        urls=("https://drive.google.com/uc?export=download&id=1swaV5iBMFfg-DL6ZyiARztbhutDCWXMM",),
        page=f"{_GITHUB}/XPixelGroup/BasicSR/blob/master/docs/ModelZoo.md", terms="Apache-2.0", sha256="150ff491",
    ),
    "RRDB_ESRGAN_x4": _esrgan(
        "ESRGAN, bicubic", "RRDB_ESRGAN_x4", "65fece06e1ccb48853242aa972bdf00ad07a7dd8938d2dcbdf4221b59f6372ce"
    ),
    "RRDB_PSNR_x4": _esrgan(
        "ESRGAN's first stage, bicubic", "RRDB_PSNR_x4",
        "f372b59f22929e1bc83fa58d78215c96f976de3b2eaeee736da1b348913da6cc",
    ),
    "MSRResNet_x4_f64b16_DIV2K_1000k_B16G1": Published(
        "SRResNet, bicubic (net_g_1000000.pth of 001_MSRResNet_x4_f64b16_DIV2K_1000k_B16G1_wandb)", "MSRResNet",
        _SRRESNET, page="https://drive.google.com/drive/folders/1XN4WXKJ53KQ0Cu0Yv-uCt8DZWq6uufaP", terms="Apache-2.0",
    ),
    "msrresnet_x4_psnr": _kair("SRResNet, bicubic", "msrresnet_x4_psnr.pth", "MSRResNet", _SRRESNET),
    "msrresnet_x4_gan": _kair("SRGAN, bicubic", "msrresnet_x4_gan.pth", "MSRResNet", _SRRESNET),
    "BSRGAN": _kair(
        "general images", "BSRGAN.pth", "RRDBNet", _RRDB, size=67046751, terms="Apache-2.0",
        sha256="5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54",
    ),
    "BSRNet": _kair(
        "BSRGAN's first stage", "BSRNet.pth", "RRDBNet", _RRDB, terms="Apache-2.0",
        sha256="fa633d80ff4db5a546740ae8e3baebe925fc84d3c03e3e9002493acc5e88c3ec",
    ),
    "RealSR_DF2K": Published(
        "RealSR (NTIRE 2020, track 1)", "RRDBNet", _RRDB,
        urls=("https://drive.google.com/uc?export=download&id=1pWGfSw-UxOkrtbh14GeLQgYnMLdLguOF",),
        page=f"{_GITHUB}/Tencent/Real-SR", terms="Apache-2.0", size=66921375,
        sha256="a3df4ebdb3ff9fba08133b69fcfdd7965793957036c2b1a648d8440e737c39ac",
    ),
    "RealSR_JPEG": _kair("RealSR, for JPEG inputs", "RealSR_JPEG.pth", "RRDBNet", _RRDB, terms="Apache-2.0"),
    "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_PSNR": _swinir(
        "SwinIR-L, real images, pixel loss", "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_PSNR", _SWINIR_L
    ),
    "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN": _swinir(
        "SwinIR-L, real images", "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN", _SWINIR_L, size=142473939,
        sha256="99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a",
    ),
    "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN": _swinir(
        "SwinIR-M, real images", "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN",
        {**_SWINIR_M, "upsampler": "nearest+conv"}, size=67129861,
        sha256="b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6",
    ),
    "001_classicalSR_DF2K_s64w8_SwinIR-M_x4": _swinir(
        "SwinIR-M, bicubic", "001_classicalSR_DF2K_s64w8_SwinIR-M_x4", _SWINIR_M, size=67869037,
        sha256="4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215",
    ),
    "001_classicalSR_DIV2K_s48w8_SwinIR-M_x4": _swinir(
        "SwinIR-M, bicubic, DIV2K alone", "001_classicalSR_DIV2K_s48w8_SwinIR-M_x4", {**_SWINIR_M, "img_size": 48},
        size=59611499, sha256="129dc773ba2d4c07f3eb0bb116fbe692011b7cc072d9ca12797cd3748198610a",
    ),
    "Real_HAT_GAN_SRx4": _hat(
        "HAT, real images", "datasets/dputilov/exp/resolve/main/Real_HAT_GAN_SRx4.pth", size=170277017,
        sha256="f5b1e3bbbb05147ca2beefcc715279cb647d7976cbda67d62ea7e6e20d5ffcc7",
    ),
    "Real_HAT_GAN_sharper": _hat(
        "HAT, real images, sharper", "Acly/hat/resolve/main/Real_HAT_GAN_sharper.pth", size=170277017,
        sha256="5800b67136006eb8cab3b4ed7c8d73b6a195bb18e6cc709b674f9aa069c00271",
    ),
    "HAT_SRx4": _hat("HAT, bicubic"),
    "HAT_SRx4_ImageNet-pretrain": _hat(
        "HAT, bicubic, from ImageNet", "Acly/hat/resolve/main/HAT_SRx4_ImageNet-pretrain.pth", size=85137601,
        sha256="4ee053c42461187846dc0e93aa5abd34591c0725a8e044a59000e92ee215e833",
    ),
    "HAT-L_SRx4_ImageNet-pretrain": _hat(
        "HAT-L, bicubic, from ImageNet", "datasets/dputilov/exp/resolve/main/HAT-L_SRx4_ImageNet-pretrain.pth",
        settings={**_HAT, "depths": [6] * 12, "num_heads": [6] * 12}, size=165774123,
        sha256="5992bd38522f2b8faf11ea4bd8ee08de92465bb66892166576999afc36d60043",
    ),
    "Restormer_real_denoising": _restormer("noise of cameras", "real_denoising", "BiasFree"),
    "Restormer_gaussian_color_denoising_blind": _restormer(
        "Gaussian noise of any strength", "gaussian_color_denoising_blind", "BiasFree",
        "4e2314dae77bb907184da6e2ac625b921491d6b33de26a52512eff1c6bb37fbd",
    ),
    "Restormer_motion_deblurring": _restormer("motion blur", "motion_deblurring", "WithBias"),
    "Restormer_deraining": _restormer("rain", "deraining", "WithBias"),
    "Restormer_single_image_defocus_deblurring": _restormer(
        "defocus", "single_image_defocus_deblurring", "WithBias"
    ),
    "RealESRGAN-TG": _tgsr("TGSR's own RealESRGAN", "RRDBNet", _RRDB),
    "RealSRGAN-TG": _tgsr("TGSR's own RealSRGAN", "MSRResNet", _SRRESNET),
    "RealSwinIRGAN-TG": _tgsr("TGSR's own RealSwinIR", "SwinIR", _SWINIR_L),
    "RealHATGAN-TG": _tgsr("TGSR's own RealHAT", "HAT", _HAT),
    "CriaCL_NTIRE": Published(
        "Cria-CL's own network for NTIRE 2020", "CriaCLReleased",
        urls=(f"{_GITHUB}/House-Leo/RealSR-CCL/releases/download/Premodel/model.zip",),
        page=f"{_GITHUB}/House-Leo/RealSR-CCL", member="NTIRE.pth",
    ),
}  # fmt: skip


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Where weights of this name are kept."""
    return folder / f"{name}.pth"


def name_of(path: Path | str, folder: Path = FOLDER) -> str | None:
    """The name of weights kept at this place, here or not; None: it is no such place."""
    path = Path(os.path.abspath(path))
    return path.stem if path == Path(os.path.abspath(path_of(path.stem, folder))) and path.stem in ZOO else None


def command_for(path: Path | str) -> str | None:
    """The command that gets the file of published weights at this place; None: it is no such place."""
    name = name_of(path)
    return None if name is None else f"tgsr weights {name}"


def resolve(named: Path) -> Path:
    """A file of weights as the user named it: a path, or the name of published weights, fetched when they are absent.

    Raises:
        UserError: neither; or they cannot be fetched.
    """
    if named.exists():
        return named
    if str(named) in ZOO:
        return fetch(str(named))
    if named.parent == Path() and not named.suffix:
        raise UserError("no such file, and no published weights of that name", place=str(named),
                        remedy=did_you_mean(str(named), ZOO))  # fmt: skip
    raise UserError("no such file", place=str(named), remedy=command_for(named) or "check -w")


def fetch(
    name: str,
    folder: Path = FOLDER,
    *,
    say: Callable[[str], None] = lambda _line: None,
    progress: Progress | None = None,
) -> Path:
    """Get published weights, unless they are there, and check them.

    Args:
        name: one of `ZOO`.
        folder: where they are kept.
        say: called with a line when they have come.
        progress: called with (bytes so far, all bytes or None).

    Returns:
        The file.

    Raises:
        UserError: unknown name, or no network, or nobody but a person can get them.
        DataError, CheckpointError: what came are not these weights.
    """
    if name not in ZOO:
        raise UserError(f"there are no weights '{name}'", remedy=did_you_mean(name, ZOO))
    entry, path = ZOO[name], path_of(name, folder)
    if path.exists():
        say(f"{path} is there already")
        return path
    remedy = f"get {entry.member or path.name} from {entry.page} (terms: {entry.terms}) and put it at {path}"
    if not entry.urls:
        raise UserError(f"{name} cannot be fetched without a person", remedy=remedy)
    coming = path.with_name(f".{path.name}")
    for number, url in enumerate(entry.urls, 1):
        try:
            _download(entry, url, coming, remedy, progress)
            break
        except UserError:
            if number == len(entry.urls):
                raise
    if entry.sha256 is None or entry.member:
        _check(entry, coming)
    os.replace(coming, path)
    say(f"{path}: {entry.about}; checked {entry.check}; terms: {entry.terms}")
    return path


def listing(folder: Path = FOLDER) -> list[str]:
    """A line for each of the published weights: what they are, and whether they are here."""
    width = max(map(len, ZOO))
    lines = []
    for name, entry in ZOO.items():
        state = "here" if path_of(name, folder).exists() else "" if entry.urls else "by hand"
        lines.append(f"{name:{width}}  x{entry.scale}  {entry.network:19}  {state:7}  {entry.about}; {entry.terms}")
    return lines


def fetch_paths(
    paths: Iterable[Path], *, say: Callable[[str], None], progress: Progress | None = None
) -> list[UserError]:
    """Get the absent ones of the paths that are places of published weights; one error for each that did not come."""
    problems = []
    for name in [name for path in paths if not path.exists() and (name := name_of(path)) is not None]:
        try:
            fetch(name, say=say, progress=progress)
        except UserError as error:
            problems.append(error)
    return problems


def _download(entry: Published, url: str, path: Path, remedy: str, progress: Progress | None) -> None:
    if not entry.member:
        download(url, path, sha256=entry.sha256, remedy=remedy, progress=progress)
        return
    archive = download(url, path.with_suffix(".zip"), remedy=remedy, progress=progress)
    try:
        with zipfile.ZipFile(archive) as packed:
            inside = next((n for n in packed.namelist() if n.rsplit("/", 1)[-1] == entry.member), None)
            if inside is None:
                raise DataError(f"{url} holds no {entry.member}", place=str(archive), remedy=remedy)
            with packed.open(inside) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        raise DataError(f"damaged archive: {error}", place=str(archive), remedy=remedy) from None
    finally:
        archive.unlink()


def _check(entry: Published, path: Path) -> None:
    """Load the file into its network; where it does not fit, it is deleted."""
    from tgsr.models.weights import load_into, load_state

    net = None
    with contextlib.suppress(ConfigError):  # the network's room may have been deleted
        net = ARCHS.get(entry.network)(**entry.settings)
    try:
        if net is None:
            load_state(path)
        else:
            load_into(net, path)
    except CheckpointError:
        path.unlink()
        raise
