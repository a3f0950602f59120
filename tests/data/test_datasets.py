"""Training and validation samples."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.data_toys import photo, photo_folder, task_set
from tgsr.data.augment import CropDraw, turn
from tgsr.data.backends import open_source
from tgsr.data.datasets import GTDataset, LQDataset, PairedDataset
from tgsr.data.packed import pack_images
from tgsr.data.plan import BatchPlan, SamplePlan
from tgsr.tasks.samplers import UniformTaskSampler
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.image_io import read_image, save_image

CPU = torch.device("cpu")
TASKS = task_set()


def gt_set(root: Path, **kwargs) -> GTDataset:
    settings = {"scale": 4, "tasks": TASKS, "gt_size": 32, "degrade_size": 48, **kwargs}
    return GTDataset(dataroot_gt=root, **settings)


def plans(dataset, iteration: int, world_size: int = 1, batch_size: int = 4) -> list[list[SamplePlan]]:
    sampler = UniformTaskSampler(TASKS, seed=1)
    return [
        BatchPlan(
            len(dataset), batch_size=batch_size, sampler=sampler, seed=1, rank=rank, world_size=world_size
        ).local_batch(iteration)
        for rank in range(world_size)
    ]


def batch_of(dataset, chosen):
    return dataset.degrade_on_device(dataset.collate([dataset[p] for p in chosen]).to(CPU))


def test_sample_is_a_crop_of_its_image(tmp_path):
    dataset = gt_set(photo_folder(tmp_path), use_hflip=False, use_rot=False)
    dataset.configure(seed=3)
    sample = dataset[SamplePlan(2, 0, 17)]
    image = read_image(tmp_path / "img_2.png")
    windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    assert (windows == sample.gt).all(axis=(2, 3, 4)).any()
    assert sample.lq.shape == (8, 8, 3)
    assert sample.gt.dtype == sample.lq.dtype == np.uint8
    assert sample.path.endswith("img_2.png")


def test_lq_is_the_pipeline_on_the_larger_crop(tmp_path):
    dataset = gt_set(photo_folder(tmp_path))
    dataset.configure(seed=3, degrade="device")
    whole = dataset.collate([dataset[SamplePlan(1, 2, 5)]]).to(CPU)
    assert whole.gt.shape == (1, 3, 48, 48)
    lq = TASKS[2].space.pipeline.apply(whole.gt, whole.params)
    top, left = whole.pending.crops[0]
    dataset.configure(seed=3)
    made = dataset.collate([dataset[SamplePlan(1, 2, 5)]]).to(CPU)
    assert torch.equal(made.lq[0], lq[0, :, top : top + 8, left : left + 8])
    assert torch.equal(made.gt[0], whole.gt[0, :, 4 * top : 4 * top + 32, 4 * left : 4 * left + 32])


@pytest.mark.parametrize("sharpen_input", [False, True])
def test_loader_and_device_forms_agree(tmp_path, sharpen_input):
    dataset = gt_set(photo_folder(tmp_path))
    chosen = plans(dataset, 3)[0]
    made = {}
    for where in ("loader", "device"):
        dataset.configure(seed=3, degrade=where, sharpen_input=sharpen_input, want_usm=True)
        made[where] = batch_of(dataset, chosen)
    for name in ("gt", "lq", "gt_usm", "task_ids", "sample_ids"):
        assert torch.equal(getattr(made["loader"], name), getattr(made["device"], name)), name
    assert made["device"].pending is None
    assert not torch.equal(made["loader"].gt, made["loader"].gt_usm)


def test_batch_equals_single_samples(tmp_path):
    dataset = gt_set(photo_folder(tmp_path))
    dataset.configure(seed=0, degrade="device")
    chosen = plans(dataset, 1)[0]
    together = batch_of(dataset, chosen)
    for i, plan in enumerate(chosen):
        alone = batch_of(dataset, [plan])
        assert torch.equal(alone.lq[0], together.lq[i])
        assert alone.params.to_json()[0] == together.params.to_json()[i]


@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batch_does_not_depend_on_the_ranks(tmp_path, world_size):
    dataset = gt_set(photo_folder(tmp_path))
    dataset.configure(seed=9)
    one = batch_of(dataset, plans(dataset, 2)[0])
    parts = [batch_of(dataset, p) for p in plans(dataset, 2, world_size)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.lq, one.lq[rank::world_size])
        assert torch.equal(part.gt, one.gt[rank::world_size])


def test_seeds_and_samples_change_the_crop(tmp_path):
    dataset = gt_set(photo_folder(tmp_path))
    crops = set()
    for seed in (0, 1):
        dataset.configure(seed=seed)
        crops |= {dataset[SamplePlan(0, 1, s)].gt.tobytes() for s in range(4)}
    assert len(crops) == 8


def test_crops_reach_every_place_and_all_eight_turns(tmp_path):
    save_image(tmp_path / "a.png", np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3))
    dataset = GTDataset(dataroot_gt=tmp_path, scale=1, tasks=TASKS, gt_size=5)
    dataset.configure(seed=0, degrade="device")
    seen = {dataset[SamplePlan(0, 0, s)].gt.tobytes() for s in range(400)}
    assert len(seen) == 4 * 8
    plain = GTDataset(dataroot_gt=tmp_path, scale=1, tasks=TASKS, gt_size=5, use_hflip=False, use_rot=False)
    plain.configure(seed=0, degrade="device")
    assert len({plain[SamplePlan(0, 0, s)].gt.tobytes() for s in range(60)}) == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_turns_are_those_of_numpy(dtype, channels):
    image = np.random.default_rng(0).integers(0, 255, (9, 14, channels)).astype(dtype)[2:, 1:]
    for hflip, vflip, transpose in itertools.product([False, True], repeat=3):
        turned = turn(image, CropDraw(0, 0, hflip, vflip, transpose))
        expected = image[:, ::-1] if hflip else image
        expected = expected[::-1] if vflip else expected
        expected = expected.transpose(1, 0, 2) if transpose else expected
        assert np.array_equal(turned, expected)
        assert turned.flags.c_contiguous
        assert turned.dtype == dtype


def test_small_images_are_reflected_up_to_degrade_size(tmp_path):
    save_image(tmp_path / "a.png", photo(0, 40, 44))
    dataset = gt_set(tmp_path, use_hflip=False, use_rot=False)
    dataset.configure(seed=0, degrade="device")
    expected = np.pad(photo(0, 40, 44), ((0, 8), (0, 4), (0, 0)), mode="reflect")
    assert np.array_equal(dataset[SamplePlan(0, 0, 0)].gt, expected)


def test_packed_equals_disk(tmp_path):
    photo_folder(tmp_path / "gt")
    save_image(tmp_path / "gt" / "small.png", photo(7, 40, 44))
    save_image(tmp_path / "gt" / "deep.png", photo(8).astype(np.float32) / 257, bit_depth=16)
    disk = gt_set(tmp_path / "gt")
    pack_images(open_source(tmp_path / "gt"), tmp_path / "packed")
    packed = gt_set(tmp_path / "packed", io_backend="packed")
    packed = pickle.loads(pickle.dumps(packed))
    for i in range(len(disk)):
        a, b = disk[SamplePlan(i, 1, 40 + i)], packed[SamplePlan(i, 1, 40 + i)]
        assert np.array_equal(a.gt, b.gt)
        assert np.array_equal(a.lq, b.lq)
        assert disk.name(i) == packed.name(i)


def test_validation_is_deterministic_and_follows_the_task(tmp_path):
    photo_folder(tmp_path, height=75, width=98)
    first, second = gt_set(tmp_path, gt_size=None, degrade_size=None), gt_set(tmp_path)
    second.configure(seed=77)
    a, b = first.val_sample(2), second.val_sample(2)
    assert a.gt.shape == (1, 3, 72, 96)
    assert a.lq.shape == (1, 3, 18, 24)
    assert torch.equal(a.lq, b.lq)
    assert torch.equal(first.val_sample(2).lq, a.lq)
    assert a.task_ids.tolist() == [2]
    assert not torch.equal(a.lq, first.val_sample(2, TASKS[3]).lq)
    expected = TASKS[2].space.pipeline.apply(a.gt, TASKS[2].draw_fixed("img_2"))
    assert torch.equal(a.lq, expected)
    named = gt_set(tmp_path, task="task_0001")
    assert torch.equal(named.val_sample(2).lq, first.val_sample(2, TASKS[2]).lq)


def test_val_crop_is_central_and_max_images_takes_the_first(tmp_path):
    dataset = gt_set(photo_folder(tmp_path), val_crop=32, max_images=2)
    assert len(dataset) == 2
    assert np.array_equal((dataset.val_sample(1).gt[0] * 255).round().byte().permute(1, 2, 0), photo(1)[20:52, 32:64])


def pair_folders(root: Path, num: int = 4) -> tuple[Path, Path]:
    for i in range(num):
        save_image(root / "gt" / f"{i}.png", photo(i))
        save_image(root / "lq" / f"{i}x4.png", photo(i)[::4, ::4])
    return root / "gt", root / "lq"


def test_pairs_are_cropped_and_turned_together(tmp_path):
    gt, lq = pair_folders(tmp_path)
    dataset = PairedDataset(dataroot_gt=gt, dataroot_lq=lq, scale=4, filename_tmpl="{}x4", gt_size=32)
    dataset.configure(seed=5)
    for s in range(12):
        sample = dataset[SamplePlan(s % 4, 0, s)]
        found = [
            np.array_equal(np.rot90(sample.gt[::f], k)[::4, ::4], np.rot90(sample.lq[::f], k))
            for f in (1, -1)
            for k in range(4)
        ]
        assert any(found)  # the corner that LQ was taken from moves with the turn
    batch = dataset.val_sample(1)
    assert batch.gt.shape[-2:] == (72, 96)
    assert batch.lq.shape[-2:] == (18, 24)


def test_pairs_in_one_folder_and_from_meta_info(tmp_path):
    for i in range(3):
        save_image(tmp_path / "both" / f"Nikon_{i}_HR.png", photo(i))
        save_image(tmp_path / "both" / f"Nikon_{i}_LR4.png", photo(i)[::4, ::4])
    both = tmp_path / "both"
    dataset = PairedDataset(
        dataroot_gt=both, dataroot_lq=both, scale=4, filename_tmpl_gt="{}_HR", filename_tmpl="{}_LR4"
    )
    assert [dataset.name(i) for i in range(3)] == ["Nikon_0_HR", "Nikon_1_HR", "Nikon_2_HR"]
    (tmp_path / "pairs.txt").write_text("Nikon_2_HR.png, Nikon_2_LR4.png\n\nNikon_0_HR.png, Nikon_0_LR4.png\n")
    listed = PairedDataset(dataroot_gt=both, dataroot_lq=both, scale=4, meta_info=tmp_path / "pairs.txt")
    assert torch.equal(listed.val_sample(0).lq, dataset.val_sample(2).lq)


def test_missing_partners_are_named(tmp_path):
    gt, lq = pair_folders(tmp_path, 7)
    for i in range(6):
        (lq / f"{i}x4.png").unlink()
    with pytest.raises(DataError, match="6 of 7 GT images lack an LQ partner: 0x4, 1x4, 2x4, 3x4, 4x4;"):
        PairedDataset(dataroot_gt=gt, dataroot_lq=lq, scale=4, filename_tmpl="{}x4")


def test_lq_only(tmp_path):
    dataset = LQDataset(dataroot_lq=photo_folder(tmp_path), scale=4)
    batch = dataset.val_sample(0)
    assert batch.gt is None
    assert batch.lq.shape == (1, 3, 72, 96)
    with pytest.raises(ConfigError, match="no ground truth"):
        dataset[SamplePlan(0, 0, 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gt_size": 30}, "gt_size 30 must be a multiple of the scale 4"),
        ({"degrade_size": 16}, "degrade_size 16 must be at least gt_size 32"),
        ({"val_crop": 2}, "val_crop 2 must be"),
        ({"meta_info": Path("none.txt")}, "no such meta-info file"),
    ],
)
def test_wrong_settings(tmp_path, change, message):
    with pytest.raises((ConfigError, DataError), match=message):
        gt_set(photo_folder(tmp_path), **change)


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        gt_set(tmp_path / "none")
    with pytest.raises(DataError, match="holds no images"):
        gt_set(tmp_path)


def test_sixteen_bit_ground_truth_stays_fine(tmp_path):
    save_image(tmp_path / "a.png", np.full((48, 48, 3), 0.50195, dtype=np.float32), bit_depth=16)
    dataset = gt_set(tmp_path)
    dataset.configure(seed=0)
    batch = dataset.collate([dataset[SamplePlan(0, 0, 0)]]).to(CPU)
    assert batch.gt.dtype == torch.float32
    assert batch.gt[0, 0, 0, 0].item() == pytest.approx(0.50195, abs=1e-5)
