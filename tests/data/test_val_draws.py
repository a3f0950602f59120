"""Several draws of each validation image."""

from tests.engine.toy import make_images
from tgsr.data.datasets import GTDataset
from tgsr.degradations.base import SPACES
from tgsr.tasks.task import Task, TaskSet


def test_each_draw_is_its_own_and_fixed(tmp_path):
    make_images(tmp_path, num=2, size=64)
    tasks = TaskSet([Task("whole_space", SPACES.get("SecondOrder")(preset="x4plus", scale=4))])
    dataset = GTDataset(dataroot_gt=tmp_path, scale=4, tasks=tasks, val_draws=3)
    assert [dataset.name(i) for i in range(len(dataset))] == [f"{n}_draw{k}" for n in ("00", "01") for k in range(3)]
    samples = [dataset.val_sample(i) for i in range(6)]
    assert (samples[0].gt == samples[2].gt).all()
    assert not (samples[0].lq == samples[1].lq).all()
    again = GTDataset(dataroot_gt=tmp_path, scale=4, tasks=tasks, val_draws=3)
    assert (again.val_sample(4).lq == samples[4].lq).all()
