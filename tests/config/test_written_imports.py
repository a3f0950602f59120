"""The option file of an experiment lies elsewhere than the one it was made from, and finds the same files to import."""

from pathlib import Path

import pytest
import yaml

from tests.config.test_options import TRAIN
from tgsr.config.options import load_options, options_hash, to_plain, write_options

MODULE = (
    "from tgsr.losses.pixel import L1Loss\nfrom tgsr.losses.base import LOSSES\n\n"
    "@LOSSES.register()\nclass {}(L1Loss):\n    pass\n"
)


@pytest.mark.parametrize("way", ["file", "base", "command line"])
def test_the_written_file_imports_what_the_first_one_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    name = "Written" + way.title().replace(" ", "")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/mine.py").write_text(MODULE.format(name))
    text = TRAIN.replace("pixel: L1Loss", f"pixel: {name}")
    entries, overrides = "import_modules: [parts/mine.py, json]\n", []
    option_file = tmp_path / "x.yml"
    if way == "file":
        option_file.write_text(text + entries)
    elif way == "base":
        option_file = tmp_path / "deep" / "x.yml"
        option_file.parent.mkdir()
        (tmp_path / "base.yml").write_text(entries)
        option_file.write_text(text + "_base_: ../base.yml\n")
    else:
        option_file.write_text(text)
        overrides = ["import_modules=[parts/mine.py, json]"]
    monkeypatch.chdir(tmp_path)
    options = load_options(option_file.relative_to(tmp_path), overrides)
    assert to_plain(options)["import_modules"] == ["parts/mine.py", "json"]  # the hash knows no folder
    before = options_hash(options)

    written = tmp_path / "experiments/run/run.yml"
    written.parent.mkdir(parents=True)
    write_options(options, written)
    assert options_hash(options) == before
    monkeypatch.chdir(written.parent)
    assert yaml.safe_load(written.read_text())["import_modules"] == [str(tmp_path / "parts/mine.py"), "json"]
    again = load_options(written)
    assert again.train.losses["pixel"].type == name
    write_options(again, written)
    assert load_options(written) == again
