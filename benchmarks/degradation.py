"""Time of the second-order degradation: basicsr's `RealESRGANModel.feed_data` against ours, alternating in one run.

basicsr is timed as shipped and, because one operator (a dense 51x51 unsharp mask) takes most of that, also with a
separable unsharp mask of equal result: in torch, as its authors could have written it, and with OpenCV's filters.
Both sides get 400x400 crops and return a 256 crop with its sharpened target and its LQ image; basicsr's blur kernels
are made beforehand and not counted, ours are counted. On a CPU basicsr's own code needs a patch to run at all:
`filter2D` gets a contiguous image. On a machine that others use too, `--clock cpu`
(processor time of this process) is less disturbed than wall time. With `--device cuda` (and a batch of 12, say) both
sides degrade on the GPU, ours as one batch.

    python benchmarks/degradation.py --rounds 20 --shipped-rounds 4 --json results/degradation.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tgsr.data.base import cut_squares  # noqa: E402
from tgsr.degradations.presets import X4PLUS  # noqa: E402
from tgsr.degradations.second_order import SecondOrderSpace  # noqa: E402
from tgsr.degradations.second_order_rows import final_kernels, stage_kernels  # noqa: E402
from tgsr.degradations.usm import sharpen  # noqa: E402
from tgsr.utils.image_io import list_images, read_image, to_tensor  # noqa: E402

CROP, TARGET, SCALE = 400, 256, 4


def load_crops(folder: Path | None, num: int, seed: int) -> torch.Tensor:
    """`(num, 3, 400, 400)` random crops of a folder's images, or of photographs that come with scikit-image."""
    if folder is None:
        from skimage import data

        images = [to_tensor(data.astronaut()), to_tensor(data.coffee()), to_tensor(data.rocket())]
    else:
        images = [to_tensor(read_image(p)) for p in list_images(folder)[:100]]
    images = [x for x in images if min(x.shape[1:]) >= CROP]
    if not images:
        raise SystemExit(f"{folder}: no image of at least {CROP}x{CROP} pixels")
    rng = np.random.default_rng(seed)
    crops = []
    for i in range(num):
        x = images[i % len(images)]
        top, left = (int(rng.integers(0, n - CROP + 1)) for n in x.shape[1:])
        crops.append(x[:, top : top + CROP, left : left + CROP])
    return torch.stack(crops).contiguous()


def basicsr_feed(
    *, sharpen: Callable[[torch.Tensor], torch.Tensor] | None = None, device: str = "cpu"
) -> Callable[[dict[str, torch.Tensor]], None]:
    """`feed_data` of basicsr's model without networks and without the pair pool, as shipped or with another USM."""
    import torchvision.transforms.functional as functional

    sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
    import basicsr.models.realesrgan_model as module
    from basicsr.utils import DiffJPEG, USMSharp
    from basicsr.utils.img_process_util import filter2D

    module.filter2D = lambda img, kernel: filter2D(img.contiguous(), kernel)
    model = module.RealESRGANModel.__new__(module.RealESRGANModel)
    model.opt = {**X4PLUS, "gt_size": TARGET}
    model.device, model.is_train = torch.device(device), True
    model.jpeger, model.usm_sharpener = DiffJPEG(differentiable=False).to(device), sharpen or USMSharp().to(device)
    model._dequeue_and_enqueue = lambda: None
    return model.feed_data


class TorchUSM:
    """basicsr's USMSharp with its blur as two matrix products."""

    def __init__(self) -> None:
        self.taps = cv2.getGaussianKernel(51, 0)
        self.matrices: dict[int, torch.Tensor] = {}

    def _matrix(self, size: int, device: torch.device) -> torch.Tensor:
        if size not in self.matrices:
            blurred = cv2.sepFilter2D(np.eye(size), -1, np.ones(1), self.taps, borderType=cv2.BORDER_REFLECT_101)
            self.matrices[size] = torch.from_numpy(blurred.astype(np.float32)).to(device)
        return self.matrices[size]

    def _blur(self, x: torch.Tensor) -> torch.Tensor:
        return self._matrix(x.shape[2], x.device) @ (x @ self._matrix(x.shape[3], x.device).T)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        detail = x - self._blur(x)
        soft = self._blur((detail.abs() * 255 > 10).float())
        return soft * (x + 0.5 * detail).clip(0, 1) + (1 - soft) * x


class SeparableUSM(TorchUSM):
    """The same with two one-dimensional OpenCV filters."""

    def _blur(self, x: torch.Tensor) -> torch.Tensor:
        planes, taps = x.contiguous().view(-1, *x.shape[2:]).numpy(), self.taps.astype(np.float32)
        out = [cv2.sepFilter2D(p, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101) for p in planes]
        return torch.from_numpy(np.stack(out)).view_as(x)


def our_sample(gt: torch.Tensor, space: SecondOrderSpace, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """One sample as a loader worker makes it: draw, sharpen, degrade, crop."""
    params = space.draw(rng.random((1, space.num_uniforms)))
    sharp = sharpen(gt[None])
    lq = space.pipeline.apply(sharp, params)[0]
    top, left = (int(rng.integers(0, (CROP - TARGET) // SCALE + 1)) for _ in range(2))
    cut = lq[:, top : top + TARGET // SCALE, left : left + TARGET // SCALE]
    high = (slice(None), slice(top * SCALE, top * SCALE + TARGET), slice(left * SCALE, left * SCALE + TARGET))
    return gt[high], sharp[0][high], cut


def our_batch(
    gt: torch.Tensor, space: SecondOrderSpace, rng: np.random.Generator, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """A batch as it is made on a GPU: draw on the host, sharpen and degrade there, crop."""
    params = space.draw(rng.random((len(gt), space.num_uniforms)))
    sharp = sharpen(gt)
    lq = space.pipeline.apply(sharp, params, generator, backend="torch")
    corners = rng.integers(0, (CROP - TARGET) // SCALE + 1, (len(gt), 2))
    return (
        cut_squares(gt, corners * SCALE, TARGET),
        cut_squares(sharp, corners * SCALE, TARGET),
        cut_squares(lq, corners, TARGET // SCALE),
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds per sample of every form, one entry a round."""
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)
    size, device = arguments.batch, arguments.device
    on_gpu = device == "cuda"
    crops = load_crops(arguments.images, 6 * size, arguments.seed).view(6, size, 3, CROP, CROP).to(device)
    space = SecondOrderSpace()
    codec = SecondOrderSpace(jpeg="codec")
    rng = np.random.default_rng(arguments.seed)
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    batches = []
    for gt in crops:
        drawn = space.draw(rng.random((size, space.num_uniforms)))
        kernels = [stage_kernels(drawn, 1), stage_kernels(drawn, 2), final_kernels(drawn)]
        names = ("kernel1", "kernel2", "sinc_kernel")
        batches.append({"gt": gt, **{k: torch.from_numpy(v) for k, v in zip(names, kernels, strict=True)}})
    shipped = basicsr_feed(device=device)
    separable = basicsr_feed(sharpen=TorchUSM(), device=device)
    forms: dict[str, Callable[[int], Any]] = {
        "basicsr": lambda i: shipped(batches[i % 6]),
        "basicsr_separable_usm": lambda i: separable(batches[i % 6]),
    }
    if on_gpu:
        generator = torch.Generator(device)
        forms["ours"] = lambda i: our_batch(crops[i % 6], space, rng, generator)
    else:
        separable_opencv = basicsr_feed(sharpen=SeparableUSM())
        forms["basicsr_separable_usm_opencv"] = lambda i: separable_opencv(batches[i % 6])
        forms["ours"] = lambda i: [our_sample(x, space, rng) for x in crops[i % 6]]
        forms["ours_codec"] = lambda i: [our_sample(x, codec, rng) for x in crops[i % 6]]

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.process_time() if arguments.clock == "cpu" else time.perf_counter()

    repeats = 10 if on_gpu else 1  # the host runs ahead of a GPU
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(-2, arguments.rounds):
        for name, form in forms.items():
            if name == "basicsr" and (i >= arguments.shipped_rounds or i == -2):
                continue
            start = clock()
            for k in range(repeats):
                form(max(i, 0) * repeats + k)
            if i >= 0:
                seconds[name].append((clock() - start) / size / repeats)
    return summarise(seconds)


def summarise(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Milliseconds per sample and ratios of means with an 80 % bootstrap interval over rounds."""
    rng = np.random.default_rng(0)

    def means(name: str) -> np.ndarray:
        values = np.array(seconds[name])
        return values[rng.integers(0, len(values), (2000, len(values)))].mean(1)

    result: dict[str, Any] = {"ms_per_sample": {}, "ratio": {}}
    for name, values in seconds.items():
        if values:
            low, high = np.percentile(values, [10, 90]) * 1e3
            result["ms_per_sample"][name] = {
                "mean": float(np.mean(values)) * 1e3,
                "median": float(np.median(values)) * 1e3,
                "p10": float(low),
                "p90": float(high),
                "rounds": len(values),
            }
    for base in ("basicsr", "basicsr_separable_usm", "basicsr_separable_usm_opencv"):
        for own in ("ours", "ours_codec"):
            if seconds.get(base) and seconds.get(own):
                low, high = np.percentile(means(base) / means(own), [10, 90])
                ratio = np.mean(seconds[base]) / np.mean(seconds[own])
                result["ratio"][f"{base} / {own}"] = {"value": float(ratio), "low": float(low), "high": float(high)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images of at least 400x400; default: scikit-image's")
    parser.add_argument("--batch", type=int, default=4, help="samples a round")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shipped-rounds", type=int, default=4, help="rounds of basicsr as shipped (seconds each)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and arguments.clock == "cpu":
        parser.error("--clock cpu says nothing of a GPU; use --clock wall")
    result = {
        "benchmark": "degradation",
        "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "opencv": cv2.__version__},
        **measure(arguments),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
