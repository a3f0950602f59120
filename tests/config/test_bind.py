"""Binding: conversion of every kind of annotation and the exact text of every kind of error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from tgsr.config.bind import bind, section_parameters, signature_of
from tgsr.config.spec import FrozenDict, Kind, OutputPath, PositiveInt, Range, Spec
from tgsr.config.yaml_loader import parse_yaml
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import Registry

if TYPE_CHECKING:
    from collections import OrderedDict as Unresolvable

THINGS, FAILING = Registry("thing"), Registry("failing thing")
ThingSpec = Annotated[Spec, Kind(f"{__name__}:THINGS", runtime=("tasks", "seed"))]


@dataclass(frozen=True)
class Inner:
    a: int = 1


@THINGS.register(aliases=["OldName"])
class Net:
    def __init__(self, *, num_feat: int, num_block: int = 4, act: Literal["relu", "prelu"] = "relu") -> None:
        self.arguments = (num_feat, num_block, act)


@THINGS.register()
def make(
    tasks: Any, *, seed: int, ratio: float = 1.0, inner: Inner | None = None, child: ThingSpec | None = None
) -> Any:
    return tasks, seed, ratio, inner, child


@THINGS.register()
class Parent:
    def __init__(self, *, first: int = 0, odd: Unresolvable | None = None, plain=None) -> None:
        self.value = first, odd, plain


@THINGS.register()
class Open(Parent):
    def __init__(self, *, second: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)


@THINGS.register()
class Nothing:
    pass


@FAILING.register()
class Fails:
    """What goes wrong in its constructor is chosen by its arguments."""

    def __init__(self, *, how: str, file: Path | None = None) -> None:
        if how == "a mistake of the user":
            raise DataError("the file is empty", remedy="write it again")
        if how == "one with a place":
            raise DataError("the file is empty", place="a.txt")
        self.fail(how)

    def fail(self, how: str) -> None:
        raise RuntimeError(f"{how}\nException raised from a long list of C++ frames")


@dataclass(frozen=True)
class Section:
    needed: PositiveInt
    thing: ThingSpec | None = None
    things: dict[str, ThingSpec] = field(default_factory=FrozenDict)
    listed: list[ThingSpec] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    ratio: Annotated[float, Range(0, 1)] = 0.5
    flag: bool = False
    text: str = ""
    file: Path | None = None
    out: OutputPath = Path("out")
    files: Path | list[Path] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    mode: Literal["auto", 1, True] = "auto"
    number: int | float = 0
    weights: dict[str, float] | None = None
    steps: dict[int, str] = field(default_factory=FrozenDict)
    anything: Any = None


def parse(text: str, cls: type = Section) -> Any:
    return bind(parse_yaml(text, file="f.yml"), cls)


def message(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("needed: 5e3", "needed", 5000),
        ("ratio: 1", "ratio", 1.0),
        ("file: a/b.png", "file", Path("a/b.png")),
        ("file: ~", "file", None),
        ("files: a", "files", Path("a")),
        ("files: [a, b]", "files", [Path("a"), Path("b")]),
        ("pair: [1, 2]", "pair", (1.0, 2.0)),
        ("many: [1, 2, 3]", "many", (1, 2, 3)),
        ("mode: 1", "mode", 1),
        ("mode: true", "mode", True),
        ("number: 1", "number", 1),
        ("number: 1.0", "number", 1.0),
        ("weights: {a: 1}", "weights", {"a": 1.0}),
        ("steps: {10: a}", "steps", {10: "a"}),
        ("inner: ~", "inner", Inner()),
        ("inner: {a: 2}", "inner", Inner(2)),
        ("things: ~", "things", {}),
        ("anything: {x: [1, {y: ~}]}", "anything", {"x": [1, {"y": None}]}),
    ],
)
def test_values_are_converted(line: str, name: str, value: object) -> None:
    options = parse(line if line.startswith("needed") else f"needed: 1\n{line}")
    converted = getattr(options, name)
    assert converted == value
    assert type(converted) is type(value) or isinstance(converted, dict)


def test_home_folder_is_understood() -> None:
    assert parse("needed: 1\nfile: ~/x").file == Path("~/x").expanduser()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("neded: 2", "f.yml:2: neded: there is no option 'neded' here; did you mean 'needed'?"),
        ("ratio: 2", "f.yml:2: ratio: expected a number >= 0 and <= 1, got 2"),
        ("ratio: true", "f.yml:2: ratio: expected a number >= 0 and <= 1, got true"),
        ("ratio: ~", "f.yml:2: ratio: expected a number >= 0 and <= 1, got null"),
        ("flag: 1", "f.yml:2: flag: expected true or false, got 1"),
        ("text: 3", "f.yml:2: text: expected a text, got 3"),
        ("file: [a]", "f.yml:2: file: expected a path, got ['a']"),
        ("files: 3", "f.yml:2: files: expected a path or a list of paths, got 3"),
        ("files: [a, 3]", "f.yml:2: files[1]: expected a path, got 3"),
        ("pair: [1]", "f.yml:2: pair: expected a list of 2, got [1]"),
        ("pair: [1, x]", "f.yml:2: pair[1]: expected a number, got 'x'"),
        ("many: [1, 2.5]", "f.yml:2: many[1]: expected a whole number, got 2.5"),
        ("mode: fast", "f.yml:2: mode: expected one of 'auto', 1, true, got 'fast'"),
        ("number: x", "f.yml:2: number: expected a whole number or a number, got 'x'"),
        ("weights: {a: b}", "f.yml:2: weights.a: expected a number, got 'b'"),
        ("steps: {ten: b}", "f.yml:2: steps.ten: expected a whole number as a key, got 'ten'"),
        ("inner: 3", "f.yml:2: inner: expected a section with entries of its own, got 3"),
        ("inner: {b: 3}", "f.yml:2: inner.b: there is no option 'b' here; known: a"),
        ("thing: 3", "f.yml:2: thing: expected a component, {type: NAME, ...}, got 3"),
        ("thing: {num_feat: 3}", "f.yml:2: thing: 'type' is missing; name a thing: Net, Nothing, Open, Parent, make"),
        ("thing: {type: 3}", "f.yml:2: thing: expected a name, got 3; name a thing: Net, Nothing, Open, Parent, make"),
        ("thing: {type: net}", "f.yml:2: thing.type: there is no thing 'net'; did you mean 'Net'?"),
        ("thing: nett", "f.yml:2: thing: there is no thing 'nett'; did you mean 'Net'?"),
        ("thing: Net", "f.yml:2: thing: Net needs 'num_feat'"),
        (
            "thing: {type: Net, num_feat: 1, num_fea: 2}",
            "f.yml:2: thing.num_fea: Net takes no 'num_fea'; did you mean 'num_feat'?",
        ),
        ("thing: {type: Net, num_feat: many}", "f.yml:2: thing.num_feat: expected a whole number, got 'many'"),
        ("thing: {type: Nothing, x: 1}", "f.yml:2: thing.x: Nothing takes no 'x'; it takes no arguments"),
        ("thing: {type: make, seed: 1}", "f.yml:2: thing.seed: 'seed' comes from the program; remove this line"),
        (
            "thing: {type: make, inner: {b: 1}}",
            "f.yml:2: thing.inner.b: there is no option 'b' here; known: a",
        ),
        (
            "thing: {type: make, child: {type: Net, num_feat: 1.5}}",
            "f.yml:2: thing.child.num_feat: expected a whole number, got 1.5",
        ),
        ("things: {a: {type: Nett}}", "f.yml:2: things.a.type: there is no thing 'Nett'; did you mean 'Net'?"),
        ("listed: [Nothing, Nett]", "f.yml:2: listed[1]: there is no thing 'Nett'; did you mean 'Net'?"),
    ],
)
def test_problems_have_place_and_remedy(line: str, problem: str) -> None:
    assert message(f"needed: 1\n{line}\n") == problem


def test_missing_and_null_required_keys() -> None:
    assert message("inner:\n  a: 1\n") == "f.yml:1: 'needed' is missing"
    assert message("needed:\n") == "f.yml:1: needed: expected a whole number >= 1, got null"
    assert message("needed: 0\n") == "f.yml:1: needed: expected a whole number >= 1, got 0"


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    text = message("needed: x\nthing:\n  type: Net\n  zzz: 1\nflag: 3\n" + "\n" * 6 + "text: 4\n")
    assert text.splitlines() == [
        "f.yml:1: needed: expected a whole number >= 1, got 'x'",
        "f.yml:2: thing: Net needs 'num_feat'",
        "f.yml:4: thing.zzz: Net takes no 'zzz'; known: act, num_block, num_feat",
        "f.yml:5: flag: expected true or false, got 3",
        "f.yml:12: text: expected a text, got 4",
    ]


def test_specs_build_with_runtime_arguments() -> None:
    options = parse(
        "needed: 1\nthing:\n  type: make\n  ratio: 2\n  inner: {a: 5}\n  child: {type: OldName, num_feat: 8}\n"
        "things: {bare: Nothing}\n"
    )
    spec = options.thing
    assert spec.type == "make"
    assert spec.place == "f.yml:2: thing"
    tasks, seed, ratio, inner, child = spec.build(tasks=["t"], seed=3)
    assert (tasks, seed, ratio, inner) == (["t"], 3, 2.0, Inner(5))
    assert child.type == "Net"
    assert child.build().arguments == (8, 4, "relu")
    assert isinstance(options.things["bare"].build(), Nothing)


def test_kwargs_classes() -> None:
    options = parse("needed: 1\nthing: {type: Open, second: a, first: 3, whatever: [1]}")
    assert options.thing.kwargs == {"second": "a", "first": 3, "whatever": [1]}
    assert signature_of(Open).open


def test_kwargs_of_our_own_bases_are_closed() -> None:
    from tgsr.tasks.samplers import UniformTaskSampler

    class Derived(UniformTaskSampler):
        def __init__(self, tasks, *, temperature: float = 1.0, **kwargs: Any) -> None:
            super().__init__(tasks, **kwargs)

    signature = signature_of(Derived)
    assert not signature.open
    assert {"tasks", "seed", "weights", "temperature"} == set(signature.parameters)
    assert signature.parameters["seed"].required


def test_unresolvable_annotations_are_not_checked_and_others_still_are() -> None:
    options = parse("needed: 1\nthing: {type: Parent, first: 2, odd: [1], plain: {a: 1}}")
    assert options.thing.kwargs == {"first": 2, "odd": [1], "plain": {"a": 1}}
    assert "thing.first" in message("needed: 1\nthing: {type: Parent, first: x}")


def test_values_are_frozen_and_build_gets_copies() -> None:
    options = parse("needed: 1\nthing: {type: Parent, plain: {a: [1]}}\nweights: {a: 1}")
    with pytest.raises(TypeError, match="frozen"):
        options.weights["a"] = 2.0
    with pytest.raises(TypeError, match="frozen"):
        options.thing.kwargs["plain"]["b"] = 1
    built = options.thing.build()
    built.value[2]["a"].append(2)
    assert options.thing.kwargs["plain"] == {"a": [1]}


def test_places_of_all_keys() -> None:
    places: dict[str, str] = {}
    data = parse_yaml("needed: 1\nthing:\n  type: Net\n  num_feat: 2\nthings:\n  x: Nothing\n", file="f.yml")
    bind(data, Section, places=places)
    assert places["thing.num_feat"] == "f.yml:4"
    assert places["things.x"] == "f.yml:6"


def test_sections_know_what_is_required() -> None:
    parameters = section_parameters(Section)
    assert [p.name for p in parameters.values() if p.required] == ["needed"]


def fails(how: str, **kwargs: Any) -> Spec:
    return Spec(Kind(f"{__name__}:FAILING"), "Fails", {"how": how, **kwargs}, "f.yml:2: thing")


def test_a_constructor_that_fails_is_one_line_with_place_class_and_arguments():
    with pytest.raises(ConfigError) as caught:
        fails("negative dimension", file=Path("a/b.png")).build()
    message = str(caught.value)
    text = "f.yml:2: thing: Fails(how='negative dimension', file=a/b.png): RuntimeError: negative dimension ("
    assert message.startswith(text)
    file, line = message.removeprefix(text).rstrip(")").rsplit(":", 1)
    assert Path(file) == Path(__file__)  # the line of the component that raised, since no traceback is shown
    assert "raise RuntimeError" in Path(__file__).read_text().splitlines()[int(line) - 1]
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_user_in_a_constructor_gets_the_place_it_lacks():
    with pytest.raises(DataError) as caught:
        fails("a mistake of the user").build()
    assert str(caught.value) == "f.yml:2: thing: the file is empty; write it again"
    with pytest.raises(DataError) as caught:
        fails("one with a place").build()
    assert str(caught.value) == "a.txt: the file is empty"
