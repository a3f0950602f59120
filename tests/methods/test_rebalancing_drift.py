"""TGSR's groups at two checkpoints: counts by hand, and the stage on files of the indicators' schema."""

import json
import math

import numpy as np
import pytest

from tests.methods.rebalancing_toys import make_options, run
from tgsr.methods.rebalancing.drift import drift, even_groups
from tgsr.utils.errors import DataError
from tgsr.utils.files import append_jsonl


def write(path, values, *, tasks="0123", schema="tgsr.indicators"):
    append_jsonl(path, {"schema": schema, "version": 1, "tasks": tasks})
    for name, z in values.items():
        append_jsonl(path, {"task": name, "status": "ok" if math.isfinite(z) else "diverged", "z": z})
    return str(path)


def test_groups_are_even_and_by_rank():
    values = np.random.default_rng(0).random(102)
    groups = even_groups(values, 4)
    assert sorted(np.bincount(groups)) == [25, 25, 26, 26]
    for low, high in ((0, 1), (1, 2), (2, 3)):
        assert values[groups == low].max() < values[groups == high].min()


def test_drift_by_hand():
    before = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "x": math.nan}
    after = {"a": 0.5, "b": 0.1, "c": 0.2, "d": 0.6, "x": 0.0}
    found = drift(before, after, num_groups=2, share=0.5)
    assert found["tasks"] == ["a", "b", "c", "d"]
    assert found["groups"] == [[0, 0, 1, 1], [1, 0, 0, 1]]
    assert found["moves"] == [[1, 1], [1, 1]]
    assert (found["kept"], found["new"], found["gone"]) == (["b"], ["c"], ["a"])
    assert found["stay"] == 0.5
    assert found["correlation"] == pytest.approx(1 - 6 * (4 + 1 + 1 + 0) / (4 * 15))
    found = drift(before, after, num_groups=2, share=0.5, direction="high")
    assert (found["kept"], found["new"], found["gone"]) == (["d"], ["a"], ["c"])


def test_nothing_moves_where_nothing_changes():
    values = dict(zip(map(str, range(40)), np.random.default_rng(1).random(40), strict=True))
    found = drift(values, values)
    assert (found["stay"], found["new"], found["gone"]) == (1, [], [])
    assert found["correlation"] == pytest.approx(1)
    assert len(found["kept"]) == 16


def test_stage(tmp_path):
    rng = np.random.default_rng(2)
    first = {f"t{i}": float(z) for i, z in enumerate(rng.random(20))}
    second = {t: z + 0.3 * float(rng.random()) for t, z in first.items()}
    second["t3"] = math.nan
    stage = {
        "type": "IndicatorDrift",
        "before": write(tmp_path / "before.jsonl", first),
        "after": write(tmp_path / "after.jsonl", second),
    }
    run(make_options(tmp_path, stem="drift", run=stage))
    content = json.loads((tmp_path / "experiments" / "drift" / "drift.json").read_text())
    assert content["left_out"] == 1
    assert sum(map(sum, content["moves"])) == 19
    report = tmp_path / "results" / "drift" / "report"
    assert (report / "figures" / "groups.svg").exists()
    assert (report / "tables" / "moves.md").exists()
    other = write(tmp_path / "other.jsonl", first, tasks="9999")
    with pytest.raises(DataError, match="different task sets"):
        run(make_options(tmp_path, stem="wrong", run={**stage, "after": other}))
    gains = write(tmp_path / "gains.jsonl", first, schema="tgsr.gains")
    with pytest.raises(DataError, match="not a tgsr.indicators file of version 1"):
        run(make_options(tmp_path, stem="wrong", run={**stage, "after": gains}))
