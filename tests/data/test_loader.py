"""The training loader: same batches for any number of workers, errors in one line, a watchdog."""

import contextlib
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from tests.data.data_toys import photo_folder, task_set
from tgsr.data.backends import open_source
from tgsr.data.datasets import GTDataset
from tgsr.data.lmdb_store import write_lmdb
from tgsr.data.loader import LoaderError, TrainLoader
from tgsr.data.plan import BatchPlan, PlanBatchSampler, SamplePlan
from tgsr.tasks.samplers import UniformTaskSampler
from tgsr.utils.errors import DataError

TASKS = task_set()


def make_loader(dataset, num_workers: int, **kwargs) -> TrainLoader:
    plan = BatchPlan(len(dataset), batch_size=4, sampler=UniformTaskSampler(TASKS, seed=0), seed=0)
    sampler = PlanBatchSampler(plan, num_micro=2)
    return TrainLoader(dataset, sampler, num_workers=num_workers, prefetch_factor=2, **kwargs)


def gt_set(root, cls=GTDataset, **kwargs):
    dataset = cls(dataroot_gt=root, scale=4, tasks=TASKS, gt_size=32, **kwargs)
    dataset.configure(seed=0)
    return dataset


def batches(loader, start: int, stop: int):
    loader.batch_sampler.set_range(start, stop)
    return list(loader)


def test_same_batches_for_any_number_of_workers(tmp_path):
    photo_folder(tmp_path)
    expected = None
    for num_workers in (0, 1, 2):
        loader = make_loader(gt_set(tmp_path), num_workers)
        found = batches(loader, 0, 2) + batches(loader, 2, 3)
        loader.close()
        assert len(found) == 6
        if expected is None:
            expected = found
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a.gt, b.gt)
            assert torch.equal(a.lq, b.lq)
            assert a.params.to_json() == b.params.to_json()
            assert a.paths == b.paths
    again = make_loader(gt_set(tmp_path), 1)
    assert torch.equal(batches(again, 2, 3)[1].lq, expected[5].lq)  # a run that begins in the middle


def test_lmdb_is_opened_by_each_worker(tmp_path):
    write_lmdb(open_source(photo_folder(tmp_path / "gt")), tmp_path / "gt.lmdb")
    lmdb = gt_set(tmp_path / "gt.lmdb", io_backend="lmdb")
    disk = make_loader(gt_set(tmp_path / "gt"), 0)
    expected = batches(disk, 0, 2)
    lmdb[SamplePlan(0, 0, 0)]  # opened here before the fork
    for a, b in zip(expected, batches(make_loader(lmdb, 2), 0, 2), strict=True):
        assert torch.equal(a.lq, b.lq)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_image_is_one_line(tmp_path, num_workers):
    photo_folder(tmp_path)
    dataset = gt_set(tmp_path)
    (tmp_path / "img_3.png").write_bytes((tmp_path / "img_3.png").read_bytes()[:500])
    with pytest.raises(DataError) as error:
        batches(make_loader(dataset, num_workers), 0, 3)
    assert str(error.value).startswith(f"{tmp_path / 'img_3.png'}: the image is truncated")
    assert "\n" not in str(error.value)


class Broken(GTDataset):
    def __getitem__(self, plan):
        raise KeyError("surprise")


class Slow(GTDataset):
    def __getitem__(self, plan):
        time.sleep(60)


class Suicidal(GTDataset):
    def __getitem__(self, plan):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_fault_of_the_program_keeps_place_and_traceback(tmp_path):
    with pytest.raises(LoaderError, match=r"(?s)img_\d.png: KeyError: 'surprise'.*Traceback.*__getitem__"):
        batches(make_loader(gt_set(photo_folder(tmp_path), Broken), 1), 0, 1)


def test_watchdog_names_worker_and_file(tmp_path):
    loader = make_loader(gt_set(photo_folder(tmp_path), Slow), 1, timeout_s=2)
    with pytest.raises(DataError, match=r"no batch for 2 s; worker 0 is at .*img_\d.png since \d s"):
        batches(loader, 0, 1)


def test_dead_worker_is_explained(tmp_path):
    loader = make_loader(gt_set(photo_folder(tmp_path), Suicidal), 1)
    with pytest.raises(DataError, match=r"a loader worker died.*worker 0 is at .*img_\d.png.*num_worker_per_gpu"):
        batches(loader, 0, 1)


def test_a_death_that_was_told_to_somebody_else_is_told_at_the_next_batch(tmp_path):
    """torch tells it once, wherever the main thread is: in a report, say, which goes on after any error."""
    loader = make_loader(gt_set(photo_folder(tmp_path)), 2, timeout_s=60)
    loader.batch_sampler.set_range(0, 100)
    found = iter(loader)
    next(found)
    worker, start = loader._workers[0], time.time()
    with contextlib.suppress(RuntimeError):
        worker.kill()
        worker.join()
        time.sleep(0.001)  # torch's handler runs
    with pytest.raises(DataError, match="a loader worker died"):
        list(found)
    loader.close()
    assert time.time() - start < 30


def test_shared_memory_that_is_too_small_is_told_before_it_is_full(tmp_path, monkeypatch, caplog):
    """A batch of two 32-pixel crops of 8 bits has 6,528 bytes; two workers prepare two each."""
    photo_folder(tmp_path)
    size = 2 * 3 * (32 * 32 + 8 * 8)
    expected = batches(make_loader(gt_set(tmp_path), 0), 0, 2)
    monkeypatch.setattr("tgsr.data.loader._free_shared_memory", lambda: 5 * size)
    loader = make_loader(gt_set(tmp_path), 2)
    found = batches(loader, 0, 2)
    loader.close()
    assert all(torch.equal(a.lq, b.lq) for a, b in zip(expected, found, strict=True))
    assert "in /dev/shm" in caplog.text
    assert "prefetch_factor is 1" in caplog.text
    monkeypatch.setattr("tgsr.data.loader._free_shared_memory", lambda: 3 * size)
    loader = make_loader(gt_set(tmp_path), 2)
    with pytest.raises(DataError, match="/dev/shm, where .* are free; give it more"):
        batches(loader, 0, 2)
    loader.close()


class Unsendable:
    def __reduce__(self):
        raise RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)")


class FillingSet(GTDataset):
    """Hands over a few batches; then shared memory is full."""

    def collate(self, samples):
        batch = super().collate(samples)
        return replace(batch, paths=[Unsendable()]) if samples[0].plan.sample >= 8 else batch


def test_shared_memory_that_fills_during_a_run_ends_it_at_once(tmp_path, capfd):
    photo_folder(tmp_path)
    loader = make_loader(gt_set(tmp_path, FillingSet), 1, timeout_s=60)
    start = time.time()
    with pytest.raises(DataError, match="/dev/shm is full"):
        batches(loader, 0, 4)
    loader.close()
    assert time.time() - start < 30
    assert "Traceback" not in capfd.readouterr().err
