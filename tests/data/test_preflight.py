"""All problems of a data set at once, before training."""

import numpy as np
import pytest

from tests.data.data_toys import photo, photo_folder, task_set
from tgsr.data.datasets import GTDataset, PairedDataset
from tgsr.data.preflight import inspect, preflight
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import save_image


@pytest.fixture
def bad_folder(tmp_path):
    root = photo_folder(tmp_path / "gt", 6)
    (root / "img_1.png").write_bytes((root / "img_1.png").read_bytes()[:-40])
    (root / "img_3.png").write_text("not an image")
    save_image(root / "img_4.png", photo(4, 40, 96))
    (root / "img_5.png").write_bytes(b"")
    save_image(root / "img_6.png", photo(6)[..., 0])
    save_image(root / "img_7.png", photo(7), alpha=photo(7)[..., 0], bit_depth=16)
    return root


def gt_set(root):
    return GTDataset(dataroot_gt=root, scale=4, tasks=task_set(1), gt_size=64)


def test_all_problems_are_listed_with_their_paths(bad_folder, tmp_path):
    with pytest.raises(DataError) as error:
        preflight(gt_set(bad_folder), cache=tmp_path / "cache")
    lines = str(error.value).split("\n  ")
    assert lines[0] == "4 of 8 images cannot be used:"
    assert lines[1] == f"{bad_folder}/img_1.png: the image is truncated: its end is missing"
    assert lines[2] == f"{bad_folder}/img_3.png: cannot be read as an image"
    assert lines[3] == f"{bad_folder}/img_4.png: it is 96x40, smaller than the crop gt_size 64"
    assert lines[4].startswith(f"{bad_folder}/img_5.png: the file is empty; mend or remove them")


def test_bad_images_are_left_out_with_a_count(bad_folder, tmp_path, caplog):
    dataset = gt_set(bad_folder)
    preflight(dataset, skip_bad=True, cache=tmp_path / "cache")
    assert [dataset.name(i) for i in range(len(dataset))] == ["img_0", "img_2", "img_6", "img_7"]
    assert "4 of 8 images" in caplog.text


def test_results_are_remembered_until_a_file_changes(bad_folder, tmp_path):
    first = inspect(gt_set(bad_folder), cache=tmp_path / "cache")
    second = inspect(gt_set(bad_folder), cache=tmp_path / "cache")
    assert (first.num_opened, second.num_opened) == (8, 0)
    assert first.problems == second.problems
    save_image(bad_folder / "img_3.png", photo(3))
    third = inspect(gt_set(bad_folder), cache=tmp_path / "cache")
    assert third.num_opened == 1
    assert len(third.problems) == 3


def test_a_cache_that_cannot_be_written_does_not_matter(bad_folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert len(inspect(gt_set(bad_folder), cache=tmp_path / "file").problems) == 4


def test_pairs_of_other_ratio_are_told(tmp_path):
    for i in range(3):
        save_image(tmp_path / "gt" / f"{i}.png", photo(i))
        save_image(tmp_path / "lq" / f"{i}.png", photo(i)[::4, ::4] if i != 1 else photo(i)[::2, ::2])
    dataset = PairedDataset(dataroot_gt=tmp_path / "gt", dataroot_lq=tmp_path / "lq", scale=4, gt_size=32)
    with pytest.raises(DataError, match=r"1\.png: GT is 96x72 and LQ 48x36: the ratio is 2 x 2, not 4"):
        preflight(dataset, cache=tmp_path / "cache")
    preflight(dataset, skip_bad=True, cache=tmp_path / "cache")
    assert np.allclose(dataset.val_sample(1).lq[0, 0, 0, 0], photo(2)[0, 0, 0] / 255)


def test_nothing_left(tmp_path):
    dataset = gt_set(photo_folder(tmp_path / "gt", 2, height=40, width=40))
    with pytest.raises(DataError, match="no image is left"):
        preflight(dataset, skip_bad=True, cache=tmp_path / "cache")
