"""The one place that knows legacy names and keys: option files of BasicSR and its descendants -> ours.

Every rule looks at the keys it knows, wherever they come from, so a file may mix both forms, and a command line may
use legacy keys on any file. What is moved keeps its file and line. Where both forms give the same thing, ours wins.
"""

from __future__ import annotations

import os
from typing import Any

from tgsr.config.channels import INPUT_CHANNELS
from tgsr.config.yaml_loader import PlacedDict, merge
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

_PIXEL, _ADVERSARIAL = "PixelModel", "AdversarialModel"
_MODELS = {
    "SRModel": _PIXEL,
    "SwinIRModel": _PIXEL,
    "HATModel": _PIXEL,
    "RealESRNetModel": _PIXEL,
    "RealHATMSEModel": _PIXEL,
    "SRGANModel": _ADVERSARIAL,
    "ESRGANModel": _ADVERSARIAL,
    "RealESRGANModel": _ADVERSARIAL,
    "RealHATGANModel": _ADVERSARIAL,
}
_USM_MODELS = ("RealESRGANModel", "RealHATGANModel")
"""They degrade the sharpened ground truth and have one switch per loss."""
_UNSUPPORTED_MODELS = {
    "VideoBaseModel": "video restoration",
    "VideoGANModel": "video restoration",
    "VideoRecurrentModel": "video restoration",
    "VideoRecurrentGANModel": "video restoration",
    "EDVRModel": "video restoration",
    "HiFaceGANModel": "face restoration",
    "DFDNetModel": "face restoration",
    "GFPGANModel": "face restoration",
    "StyleGAN2Model": "StyleGAN training",
    "ExampleModel": "BasicSR's template model",
}
_DATASETS = {
    "PairedImageDataset": "PairedDataset",
    "RealESRGANPairedDataset": "PairedDataset",
    "RealESRGANDataset": "GTDataset",
    "ImageNetPairedDataset": "GTDataset",
    "SingleImageDataset": "LQDataset",
}
_METRICS = {
    "calculate_psnr": "PSNR",
    "calculate_ssim": "SSIM",
    "calculate_niqe": "NIQE",
    "calculate_lpips": "LPIPS",
}
_LDL_CRITERIA = {"L1Loss": "l1", "MSELoss": "l2", "CharbonnierLoss": "charbonnier"}
_DEGRADE_SIZE = 400
"""Real-ESRGAN degrades crops of this edge and cuts gt_size out of them."""

_LOADER_KEYS = (
    "dataset", "batch_size_per_gpu", "batch_size", "num_worker_per_gpu", "prefetch_factor", "preflight",
    "skip_bad_images",
)
_DATASET_KEYS = (
    "dataroot_gt", "dataroot_lq", "meta_info", "meta_info_file", "io_backend", "filename_tmpl", "gt_size",
    "use_hflip", "use_flip", "use_rot", "color", "mean", "std",
)
_STAGE_KEYS = (
    "blur_kernel_size", "kernel_list", "kernel_prob", "sinc_prob", "blur_sigma", "betag_range", "betap_range",
    "resize_prob", "resize_range", "gaussian_noise_prob", "noise_range", "poisson_scale_range", "gray_noise_prob",
    "jpeg_range",
)
_SPACE_KEYS = (*_STAGE_KEYS, *(f"{key}2" for key in _STAGE_KEYS), "second_blur_prob", "final_sinc_prob")

_NO_POOL = "every sample has its own degradation, so there is no pool of pairs"
_ROOT_IGNORED = {
    "queue_size": _NO_POOL,
    "dist_params": "",
    "launcher": "",
    "dist": "",
    "rank": "",
    "world_size": "",
    "auto_resume": "",
    "is_train": "",
    "root_path": "",
    "use_static_graph": "",
    "suffix": "",
    "crop_border": "",
}
_DATASET_IGNORED = {
    "phase": "",
    "scale": "",
    "pin_memory": "",
    "persistent_workers": "",
    "prefetch_mode": "",
    "num_prefetch_queue": "",
    "dataset_enlarge_ratio": "",
    "use_shuffle": "",
}
_PATH_IGNORED = {
    "ignore_resume_networks": "a run resumes with all its networks",
    "root": "",
    "log": "",
    "models": "",
    "training_states": "",
    "visualization": "",
}
_RENAMED = {
    "path": {
        "pretrain_model_g": "pretrain_network_g",
        "pretrain_model_d": "pretrain_network_d",
        "strict_load": "strict_load_g",
        "param_key": "param_key_g",
    },
    "train": {"niter": "total_iter"},
}


def translate(data: PlacedDict) -> list[str]:
    """Rewrite legacy data in place.

    Args:
        data: a whole option file, merged and with its overrides.

    Returns:
        One line for every key that is understood but has no effect here, for the user to know.

    Raises:
        ConfigError: the file asks for something that has no counterpart; one line that says so.
    """
    translation = _Translation(data)
    translation.run()
    return translation.notes


def _about_gpus(num: int) -> list[str]:
    """What a wish for so many GPUs comes to. BasicSR would take them without a launcher, one process for all."""
    import torch

    if not torch.cuda.is_available():
        return ["torch sees no GPU here: this runs on the CPU"]
    if num > 1 and not {"WORLD_SIZE", "SLURM_STEP_ID"} & set(os.environ):
        return [f"this is one process, on one GPU, and its batch 1/{num} of the whole: for all of it add --gpus {num}"]
    return []


class _Translation:
    """One file on its way; `legacy_model` is the value of `model_type`, empty where there is none."""

    def __init__(self, data: PlacedDict) -> None:
        self.data = data
        self.notes: list[str] = []
        self.place = data.place_of("model_type")
        self.legacy_model = self._legacy_model()

    def _legacy_model(self) -> str:
        name = self.data.take("model_type")
        if name is None:
            return ""
        where = f"{self.place}: model_type"
        if name in _UNSUPPORTED_MODELS:
            raise ConfigError(
                f"{name} ({_UNSUPPORTED_MODELS[name]}) is not supported",
                place=where,
                remedy="tgsr restores single images",
            )
        if name not in _MODELS:
            raise ConfigError(f"there is no model '{name}'", place=where, remedy=did_you_mean(str(name), _MODELS))
        return str(name)

    def run(self) -> None:
        data = self.data
        self._ignore(data, _ROOT_IGNORED)
        self._devices()
        for name, renamed in _RENAMED.items():
            if isinstance(data.get(name), PlacedDict):
                for old, new in renamed.items():
                    data[name].move(old, data[name], new)
        if self.legacy_model:
            for name in ("path", "val", "logger", "train"):
                _drop_nulls(data.get(name))
        sharpen = self._usm_targets()
        self._datasets(sharpen)
        if isinstance(data.get("train"), PlacedDict):
            self._train(data["train"])
        self._validation()
        if isinstance(data.get("path"), PlacedDict):
            self._ignore(data["path"], _PATH_IGNORED)
        self._logger()
        if self.legacy_model and "model" not in data:
            model = _MODELS[self.legacy_model] if isinstance(data.get("train"), PlacedDict) else _PIXEL
            data.put("model", model, self.place)
        if self.legacy_model and "precision" not in data:
            data.put("precision", "fp32", self.place)  # what BasicSR computes in, whatever the GPU would do faster

    def _ignore(self, section: PlacedDict, reasons: dict[str, str]) -> None:
        for key, reason in reasons.items():
            if key in section:
                if reason and section[key] is not None:
                    self.notes.append(f"{section.place_of(key)}: {key} has no effect: {reason}")
                section.take(key)

    def _devices(self) -> None:
        data = self.data
        place, num = data.place_of("num_gpu"), data.take("num_gpu")
        if num == 0 and "device" not in data:
            data.put("device", "cpu", place)
        elif isinstance(num, int) and num > 0:
            self.notes += [f"{place}: num_gpu: {num}: {text}" for text in _about_gpus(num)]
        if "find_unused_parameters" in data:
            data.move("find_unused_parameters", data.section("train"))
        if self.legacy_model and data.get("manual_seed", 0) is None:
            data.take("manual_seed")

    def _usm_targets(self) -> bool:
        """Turn `gt_usm`, `l1_gt_usm`, ... into `target` of the losses; returns whether the input is sharpened too."""
        data = self.data
        all_usm, all_place = data.get("gt_usm"), data.place_of("gt_usm")
        data.take("gt_usm")
        train = data.get("train")
        for switch, is_mine in (
            ("l1_gt_usm", lambda key: key not in ("perceptual_opt", "gan_opt", "ldl_opt")),
            ("percep_gt_usm", lambda key: key == "perceptual_opt"),
            ("gan_gt_usm", lambda key: key == "gan_opt"),
        ):
            value, place = data.get(switch), data.place_of(switch)
            data.take(switch)
            usm = value is not False if value is not None or self.legacy_model in _USM_MODELS else all_usm is True
            for key in list(train) if usm and isinstance(train, PlacedDict) else []:
                loss = train[key]
                if _is_loss(key, loss) and is_mine(key) and "target" not in loss:
                    loss.put("target", "gt_usm", place if value is not None else all_place)
        return self.legacy_model in _USM_MODELS or all_usm is True

    def _datasets(self, sharpen: bool) -> None:
        data = self.data
        degrade = data.take("high_order_degradation", True) is not False
        datasets = data.get("datasets")
        train = datasets.get("train") if isinstance(datasets, PlacedDict) else None
        space = PlacedDict(place=train.place_of("type") if isinstance(train, PlacedDict) else data.place)
        is_legacy = bool(self.legacy_model) or (isinstance(train, PlacedDict) and train.get("type") in _DATASETS)
        for section in (data, train):
            for key in _SPACE_KEYS if is_legacy and isinstance(section, PlacedDict) else ():
                section.move(key, space)
        root_size, root_size_place = data.get("gt_size"), data.place_of("gt_size")
        data.take("gt_size")
        if isinstance(train, PlacedDict):
            kind = self._training_set(train)
            dataset = train.get("dataset")
            if root_size is not None and isinstance(dataset, PlacedDict):
                dataset.put("gt_size", root_size, root_size_place)  # what the models of Real-ESRGAN cut out
            if kind == "ImageNetPairedDataset":
                space.put("type", "Bicubic", space.place)
            elif kind == "RealESRGANDataset" and degrade:
                space.put("type", "SecondOrder", space.place)
        if "type" in space:
            self._degradation(space, sharpen)
        elif space:
            key = next(iter(space))
            reason = "the training data are pairs" if train else "there is no training set"
            self.notes.append(f"{space.place_of(key)}: {key} and keys like it have no effect: {reason}")
        if isinstance(datasets, PlacedDict):
            self._validation_sets(datasets)

    def _degradation(self, space: PlacedDict, sharpen: bool) -> None:
        """Lay the file's own `degradation` over the translated one."""
        data = self.data
        if "scale" in data:
            space.put("scale", data["scale"], data.place_of("scale"))
        section = PlacedDict(place=space.place)
        section.put("space", space, space.place)
        if sharpen:
            section.put("sharpen_input", True, self.place)
        own = data.take("degradation")
        if isinstance(own, PlacedDict):
            merge(section, own)
        data.put("degradation", section, space.place)

    def _training_set(self, train: PlacedDict) -> str | None:
        """Separate the loader's keys from the data set's; returns the legacy type."""
        self._ignore_shuffle(train)
        self._ignore(train, _DATASET_IGNORED)
        has_type = isinstance(train.get("type"), str)
        if train.get("type") == "GTDataset":  # TGSR's name for it
            train["type"] = "RealESRGANDataset"
        moved = [k for k in train if (has_type or k in (*_DATASET_KEYS, "name")) and k not in _LOADER_KEYS]
        if not moved:
            return None
        dataset = PlacedDict(place=train.place)
        for key in moved:
            train.move(key, dataset)
        kind = self._dataset(dataset)
        if kind == "RealESRGANDataset" and "degrade_size" not in dataset:
            dataset.put("degrade_size", _DEGRADE_SIZE, dataset.place_of("type"))
        holder = PlacedDict(place=train.place)
        holder.put("dataset", dataset, train.place)
        holder.move("dataset", train)
        return kind

    def _ignore_shuffle(self, train: PlacedDict) -> None:
        if train.get("use_shuffle") is False:
            self.notes.append(f"{train.place_of('use_shuffle')}: use_shuffle has no effect: training data are shuffled")

    def _dataset(self, dataset: PlacedDict) -> str | None:
        """Rename a data set's type and keys, in place; returns the legacy type."""
        kind = dataset.get("type")
        if kind in _DATASETS:
            dataset["type"] = _DATASETS[kind]
        else:
            kind = None
        self._ignore(dataset, {**_DATASET_IGNORED, "name": ""})
        dataset.move("meta_info_file", dataset, "meta_info")
        dataset.move("use_flip", dataset, "use_hflip")
        backend = dataset.get("io_backend")
        if isinstance(backend, PlacedDict):
            dataset.put("io_backend", backend.get("type", "disk"), dataset.place_of("io_backend"))
        if dataset.get("color") == "y":  # images become luma for every network of one channel
            self._check_one_channel(f"{dataset.place_of('color')}: color")
            dataset.take("color")
        for key in ("mean", "std"):
            if dataset.get(key) is not None:
                raise ConfigError(
                    "normalised input images are not supported",
                    place=f"{dataset.place_of(key)}: {key}",
                    remedy="images are in [0, 1]",
                )
            dataset.take(key)
        for key in ("color", "meta_info", "filename_tmpl"):
            if key in dataset and dataset[key] in (None, "rgb"):
                dataset.take(key)
        return kind

    def _check_one_channel(self, place: str) -> None:
        network = self.data.get("network_g")
        if isinstance(network, PlacedDict) and not any(network.get(key) == 1 for key in INPUT_CHANNELS):
            raise ConfigError(
                "'y' are images of one channel, which network_g does not take",
                place=place,
                remedy="set num_in_ch: 1 and num_out_ch: 1, or color: rgb",
            )

    def _validation_sets(self, datasets: PlacedDict) -> None:
        """`val`, `val_1`, `test_1`, ... with a `type` each -> `val: {name: set}`."""
        sets = PlacedDict(place=datasets.place_of("val"))
        own: PlacedDict | None = None
        for key in [k for k in datasets if k.split("_")[0] in ("val", "test")]:
            section, place = datasets[key], datasets.place_of(key)
            if not isinstance(section, PlacedDict) or (key == "val" and not isinstance(section.get("type"), str)):
                own = section if key == "val" and isinstance(section, PlacedDict) else own
                continue
            datasets.take(key)
            if key == "val":  # sets in our form beside it, as from the command line
                own = PlacedDict(place=place)
                for name in [k for k, v in section.items() if isinstance(v, PlacedDict) and k != "io_backend"]:
                    section.move(name, own)
            name = section.get("name")
            self._dataset(section)
            for ignored in ("gt_size", "use_hflip", "use_rot"):
                section.take(ignored)
            sets.put(name if isinstance(name, str) and name not in sets else key, section, place)
        if sets:
            if own is not None:
                merge(sets, own)
            datasets.put("val", sets, sets.place)

    def _train(self, train: PlacedDict) -> None:
        """Losses by name, the adversarial game, gradient clipping."""
        ldl = train.get("ldl_opt")
        if isinstance(ldl, PlacedDict):
            kind, place = ldl.get("type"), ldl.place_of("type")
            if kind in _LDL_CRITERIA:
                ldl.put("type", "LDLLoss", place)
                ldl.put("criterion", _LDL_CRITERIA[kind], place)
        for key in [k for k, v in train.items() if k.endswith("_opt") and v is None]:
            train.take(key)
        gan = train.get("gan_opt")
        if isinstance(gan, PlacedDict):
            if self.legacy_model == "ESRGANModel":
                gan.put("relativistic", True, self.place)
            self._check_reduction(gan)
            train.move("gan_opt", train, "gan")
        losses = PlacedDict(place=train.place)
        for key in [k for k, v in train.items() if _is_loss(k, v)]:
            self._check_reduction(train[key])
            train.move(key, losses, key.removesuffix("_opt"))
        if losses or (self.legacy_model and "gan" in train):
            for key in list(losses):
                losses.move(key, train.section("losses"))
        if train.take("use_grad_clip", False) is True and "clip_grad_norm" not in train:
            train.put("clip_grad_norm", 0.01, train.place)  # the value of Restormer and NAFNet

    def _check_reduction(self, loss: PlacedDict) -> None:
        if loss.get("reduction", "mean") != "mean":
            raise ConfigError(
                f"reduction '{loss['reduction']}' is not supported",
                place=f"{loss.place_of('reduction')}: reduction",
                remedy="losses are means over a sample; use loss_weight",
            )
        loss.take("reduction")

    def _validation(self) -> None:
        data = self.data
        tile = data.take("tile") if isinstance(data.get("tile"), PlacedDict) else None
        if tile is not None:
            tile.move("tile_size", data.section("val"), "tile")
            self._ignore(tile, {"tile_pad": "the overlap of tiles follows from the network"})
        if "save_img" in data:
            data.move("save_img", data.section("val"))
        val = data.get("val")
        if not isinstance(val, PlacedDict):
            return
        self._ignore(val, {"pbar": "", "suffix": "results are kept by experiment name", "use_image": "", "grids": ""})
        metrics = val.get("metrics")
        for metric in metrics.values() if isinstance(metrics, PlacedDict) else ():
            if isinstance(metric, PlacedDict) and metric.get("type") in _METRICS:
                self._metric(metric)

    def _metric(self, metric: PlacedDict) -> None:
        name = _METRICS[metric["type"]]
        type_place = metric.place_of("type")
        metric["type"] = name
        for key in ("better", "input_order", "num_thread"):
            metric.take(key)
        if name in ("PSNR", "SSIM"):
            place = metric.place_of("test_y_channel") if "test_y_channel" in metric else type_place
            is_y = metric.take("test_y_channel", False)
            if "color" not in metric:
                metric.put("color", "y" if is_y is True else "rgb", place)
            return
        self._ignore(metric, {"test_y_channel": "", "convert_to": ""})
        if name == "LPIPS":  # TGSR's is of the whole image with the VGG network
            self._ignore(metric, {"crop_border": "calculate_lpips takes the whole image"})
            if "net" not in metric:
                metric.put("net", "vgg", type_place)

    def _logger(self) -> None:
        logger = self.data.get("logger")
        wandb = logger.get("wandb") if isinstance(logger, PlacedDict) else None
        if isinstance(wandb, PlacedDict) and wandb.get("project") is None:
            logger.take("wandb")


def _is_loss(key: str, value: Any) -> bool:
    return key.endswith("_opt") and isinstance(value, PlacedDict)


def _drop_nulls(section: Any) -> None:
    """Legacy files write `~` for everything that is off."""
    if isinstance(section, PlacedDict):
        for key in [k for k, v in section.items() if v is None]:
            section.take(key)
