"""Safe YAML with places, `_base_` files, references, and overrides of the command line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tgsr.config.overrides import apply_overrides, parse_override
from tgsr.config.yaml_loader import PlacedDict, interpolate, load_yaml, merge, parse_yaml, to_builtin
from tgsr.utils.errors import ConfigError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def message(call, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        ("1.5e+2", 150.0),
        ("-1e-3", -1e-3),
        (".5", 0.5),
        ("1.", 1.0),
        ("!!float 5e3", 5000.0),
        ("!!float 1", 1.0),
        (".inf", math.inf),
        ("10_000", 10000),
        ("010", 10),
        ("0x1f", 31),
        ("-3", -3),
        ("+3", 3),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1e", "1e"),
        ("e4", "e4"),
        ("'1e-4'", "1e-4"),
        ("v1.2.3", "v1.2.3"),
        ("~", None),
        ("yes", True),
        ("False", False),
    ],
)
def test_scalars(text: str, value: object) -> None:
    read = parse_yaml(f"x: {text}", file="f.yml")["x"]
    assert read == value
    assert type(read) is type(value)


def test_every_key_has_its_place() -> None:
    data = parse_yaml("a: 1\nb:\n  c: 2\n  d: {e: 3,\n      f: 4}\n", file="f.yml")
    assert data.places == {"a": "f.yml:1", "b": "f.yml:2"}
    assert data["b"].place == "f.yml:2"
    assert data["b"]["d"].places == {"e": "f.yml:4", "f": "f.yml:5"}


def test_anchors_and_merge_keys_give_independent_mappings() -> None:
    data = parse_yaml("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\n", file="f.yml")
    data["c"]["p"] = 9
    assert to_builtin(data) == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}, "c": {"p": 9, "q": 2}}
    assert data["c"].place == "f.yml:3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yml:3: 'a' is given twice, first at f.yml:1; keep one of them"),
        ("a:\n  b: 1\n  c: 1\n  b: 2\n", "f.yml:4: 'b' is given twice, first at f.yml:2; keep one of them"),
        ("a: {x: 1, x: 2}\n", "f.yml:1: 'x' is given twice, first at f.yml:1; keep one of them"),
        ("a: b: c\n", "f.yml:1: not valid YAML: mapping values are not allowed here"),
        ("? [1, 2]\n: 3\n", "f.yml:1: a key must be a plain word"),
        ("a: 1\nb: \x00\n", "f.yml:2: not valid YAML: special characters are not allowed"),
        ("a: &x [*x]\n", "f.yml:1: not valid YAML: found unconstructable recursive node"),
    ],
)
def test_bad_yaml_is_one_line(text: str, expected: str) -> None:
    assert message(parse_yaml, text, file="f.yml") == expected


def test_tabs_have_a_remedy() -> None:
    text = message(parse_yaml, "a:\n\tb: 1\n", file="f.yml")
    assert text.startswith("f.yml:2: not valid YAML: ")
    assert text.endswith("; indent with spaces")


def test_no_objects_are_made() -> None:
    text = message(parse_yaml, "a: !!python/object/apply:os.system [ls]\n", file="f.yml")
    assert text.startswith("f.yml:1: not valid YAML: could not determine a constructor")


@pytest.mark.parametrize(("text", "problem"), [("", "the file is empty"), ("- 1\n", "expected 'key: value' lines")])
def test_a_file_must_be_a_mapping(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, "x.yml", text)
    assert message(load_yaml, path).startswith(f"{path}: {problem}")


def test_unreadable_files(tmp_path: Path) -> None:
    assert message(load_yaml, tmp_path / "no.yml") == f"{tmp_path}/no.yml: no such option file"
    assert "cannot be read: Is a directory" in message(load_yaml, tmp_path)
    (tmp_path / "latin.yml").write_bytes(b"name: caf\xe9\n")
    assert message(load_yaml, tmp_path / "latin.yml").endswith("latin.yml: the file is not UTF-8 text")
    child = write(tmp_path, "child.yml", "name: a\n_base_: no.yml\n")
    assert message(load_yaml, child) == f"{child}:2: _base_: no such option file '{tmp_path}/no.yml'"


def test_base_files_merge_deeply_and_keep_places(tmp_path: Path) -> None:
    write(tmp_path, "_base_/grand.yml", "train:\n  a: 1\n  list: [1, 2, 3]\n")
    write(tmp_path, "_base_/one.yml", "_base_: grand.yml\nscale: 4\ntrain:\n  b: 2\n")
    write(tmp_path, "_base_/two.yml", "scale: 2\n")
    child = write(tmp_path, "x.yml", "_base_: [_base_/one.yml, _base_/two.yml]\ntrain:\n  a: 7\n  list: [9]\n")
    data = load_yaml(child)
    assert to_builtin(data) == {"train": {"a": 7, "list": [9], "b": 2}, "scale": 2}
    assert data["train"].place_of("a") == f"{child}:3"
    assert data["train"].place_of("b") == f"{tmp_path}/_base_/one.yml:4"
    assert data.place_of("scale") == f"{tmp_path}/_base_/two.yml:1"


def test_null_in_the_child_removes(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "a: {b: 1, c: 2}\nd: 3\n")
    child = write(tmp_path, "x.yml", "_base_: base.yml\na: {b: ~}\nd: ~\ne: ~\n")
    assert to_builtin(load_yaml(child)) == {"a": {"c": 2}, "e": None}


def test_another_type_drops_the_arguments_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yml", "s: {type: A, x: 1}\nt: {type: A, x: 1}\nu: A\nv: {type: A, x: 1}\nw: A\n")
    changes = "s: {type: B, y: 2}\nt: {type: A, y: 2}\nu: {y: 2}\nv: B\nw: {type: A, y: 1}\n"
    assert to_builtin(load_yaml(write(tmp_path, "x.yml", "_base_: base.yml\n" + changes))) == {
        "s": {"type": "B", "y": 2},
        "t": {"type": "A", "x": 1, "y": 2},
        "u": {"type": "A", "y": 2},
        "v": "B",
        "w": {"type": "A", "y": 1},
    }


def test_circles_of_base_files_are_named(tmp_path: Path) -> None:
    a = write(tmp_path, "a.yml", "_base_: b.yml\n")
    b = write(tmp_path, "b.yml", "x: 1\n_base_: [a.yml]\n")
    assert message(load_yaml, a) == f"{b}:2: _base_: _base_ files form a circle: a.yml -> b.yml -> a.yml"


def test_the_same_base_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, "root.yml", "a: 1\n")
    write(tmp_path, "b.yml", "_base_: root.yml\n")
    write(tmp_path, "c.yml", "_base_: root.yml\n")
    assert to_builtin(load_yaml(write(tmp_path, "x.yml", "_base_: [b.yml, c.yml]\n"))) == {"a": 1}


def test_references_to_root_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF_TEST", "/somewhere")
    text = "name: run\nscale: 4\npath: {file: 'exp/${name}/x${scale}.json', env: $HOME_OF_TEST}\nlist: ['${name}']\n"
    data = parse_yaml(text, file="f.yml")
    interpolate(data)
    assert to_builtin(data["path"]) == {"file": "exp/run/x4.json", "env": "$HOME_OF_TEST"}
    assert data["list"] == ["run"]


@pytest.mark.parametrize("reference", ["nmae", "path", "HOME", "loop"])
def test_bad_references(reference: str) -> None:
    text = f"name: run\nloop: '${{name}}'\npath:\n  file: '${{{reference}}}'\n"
    problem = message(interpolate, parse_yaml(text, file="f.yml"))
    expected = f"f.yml:4: path.file: '${{{reference}}}' does not name a plain entry at the top of the file; "
    assert problem.startswith(expected)
    if reference == "nmae":
        assert problem.endswith("did you mean 'name'?")


def test_moving_keeps_the_place() -> None:
    data = parse_yaml("a:\n  x: 1\n  y: 2\nb: {}\n", file="f.yml")
    data["a"].move("x", data["b"], "z")
    data["a"].move("absent", data["b"])
    assert to_builtin(data) == {"a": {"y": 2}, "b": {"z": 1}}
    assert data["b"].place_of("z") == "f.yml:2"


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("train:total_iter=5e2", ["train", "total_iter"], 500.0),
        ("train.total_iter=10", ["train", "total_iter"], 10),
        ("datasets:val:a.b:type=X", ["datasets", "val", "a.b", "type"], "X"),
        ("path:resume_state=a=b.pth", ["path", "resume_state"], "a=b.pth"),
        ("x=[1, {a: 2}]", ["x"], [1, {"a": 2}]),
        ("x=", ["x"], None),
        ("x=true", ["x"], True),
    ],
)
def test_parse_override(text: str, keys: list[str], value: object) -> None:
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize("text", ["train", "=3", "train::x=3", "train.=3"])
def test_malformed_overrides(text: str) -> None:
    expected = f"command line: '{text}' is not of the form key:sub=value; for example train:total_iter=1000"
    assert message(parse_override, text) == expected


def test_overrides_follow_the_rules_of_base() -> None:
    data = parse_yaml("a: {type: A, x: 1}\nb: {c: 1}\nlist: [1, {k: 2}]\ns: A\nn: 3\n", file="f.yml")
    apply_overrides(data, ["a={type: B, y: 1}", "b:c=~", "b:new:deep=1", "s.eta=2"])
    apply_overrides(data, ["list.0=7", "list:1:k=8", "list.1.z=1"])
    assert to_builtin(data) == {
        "a": {"type": "B", "y": 1},
        "b": {"new": {"deep": 1}},
        "list": [7, {"k": 8, "z": 1}],
        "s": {"type": "A", "eta": 2},
        "n": 3,
    }
    assert data["b"]["new"].place_of("deep") == "command line"
    assert message(apply_overrides, data, ["n.x=1"]) == "command line: 'n.x=1': 'n' is 3 and has no entries"
    assert message(apply_overrides, data, ["list.5=1"]).endswith("'list.5=1': '5' is not an index of a list of 2")


def test_merge_copies() -> None:
    base, child = PlacedDict(), parse_yaml("a: {b: [1]}", file="f.yml")
    merge(base, child)
    base["a"]["b"].append(2)
    assert child["a"]["b"] == [1]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.toml", 'name = "a"\nscale = 4\n\n[network_g]\ntype = "esrgan"\n', "TOML"),
        ("renamed.yml", "[network_g]\nscale = 4\n", "TOML"),
        ("b.json", '{\n  "task": "sr"   // a comment\n  , "scale": 2\n}\n', "JSON with comments"),
        ("c.py", "_base_ = ['x.py']\nmodel = dict(\n    type='SRModel')\n", "TOML|Python"),
        ("d.py", "model = dict(\n    type='SRModel')\n", "a Python file"),
    ],
)
def test_option_files_of_other_programs_are_named(tmp_path: Path, name: str, text: str, kind: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}.*: this is ({kind}); option files are YAML"):
        load_yaml(tmp_path / name)


def test_json_is_yaml_and_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"name": "x", "scale": 2}')
    assert load_yaml(tmp_path / "a.json") == {"name": "x", "scale": 2}
