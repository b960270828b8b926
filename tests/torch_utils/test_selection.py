"""What `select` and `modules` mean: one thing, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

from gradscope import InputError
from gradscope.torch_utils.selection import (
    recorded_modules,
    recorded_parameters,
    selected_modules,
    selected_parameters,
)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))


def recorded(select: Any) -> list[str]:
    net = model()
    return list(recorded_parameters(net, [optim.SGD(net.parameters(), 0.1)], select(net))[0])


def penalised(select: Any) -> list[str]:
    net = model()
    chosen = {id(p) for p in selected_parameters(optim.SGD(net.parameters(), 0.1), select(net), net)}
    return [name for name, p in net.named_parameters() if id(p) in chosen]


WAYS: dict[str, Callable[[nn.Sequential], Any]] = {
    "expression": lambda net: r"^0\.weight|^2\.0\.weight",
    "predicate": lambda net: lambda name, p: p.ndim > 1 and name != "3.weight",
    "parameters": lambda net: [net[0].weight, net[2][0].weight],
    "generator": lambda net: (p for p in (net[0].weight, net[2][0].weight)),
}


@pytest.mark.parametrize("way", WAYS)
def test_recording_and_a_penalty_take_the_same_choice(way: str) -> None:
    assert recorded(WAYS[way]) == penalised(WAYS[way]) == ["0.weight", "2.0.weight"]


def test_a_type_of_module_means_its_parameters_and_for_a_penalty_its_weights() -> None:
    assert recorded(lambda net: (nn.Linear, nn.ReLU)) == [name for name, _ in model().named_parameters()]
    assert penalised(lambda net: (nn.Linear, nn.ReLU)) == ["0.weight", "2.0.weight", "3.weight"]


def test_a_predicate_of_one_argument_is_given_the_name_to_record_and_the_parameter_to_penalise() -> None:
    assert recorded(lambda net: lambda name: name.endswith("3.weight")) == ["3.weight"]
    assert penalised(lambda net: lambda p: p.ndim == 1) == ["0.bias", "2.0.bias", "3.bias"]
    assert recorded(lambda net: lambda name, fold=str.lower: fold(name) == "3.bias") == ["3.bias"]
    assert penalised(lambda net: lambda *both: both[0] == "3.bias") == ["3.bias"]


@pytest.mark.parametrize(
    "way",
    [r"^0|^3", lambda name, module: name in ("0", "3"), lambda net: [net[0], net[3]]],
    ids=["expression", "predicate", "modules"],
)
def test_modules_are_chosen_in_the_same_ways(way: Any) -> None:
    net = model()
    select = way(net) if callable(way) and way.__code__.co_argcount == 1 else way
    assert list(recorded_modules(net, select)) == ["0", "3"]
    assert selected_modules(net, select) == [net[0], net[3]]


def test_names_are_those_of_the_plain_model_where_a_part_is_compiled_or_the_whole_is() -> None:
    net = model()
    net[0] = torch.compile(net[0], backend="eager")  # type: ignore[assignment]
    inner, outer = net[0]._orig_mod, torch.compile(net, backend="eager")
    optimizer = optim.SGD(net.parameters(), 0.1)
    for whole in (net, outer):
        assert isinstance(whole, nn.Module)
        assert list(recorded_parameters(whole, [optimizer], r"^0\.w")[0]) == ["0.weight"]
        assert selected_parameters(optimizer, r"^0\.w", whole) == [inner.weight]
        for way in (r"^0$", "0$", lambda name, module: name == "0", [net[0]], [inner]):
            expected = [inner, net[2][0]] if way == "0$" else [inner]
            assert selected_modules(whole, way) == expected


def test_an_expression_never_means_the_whole_model() -> None:
    net = model()
    assert net not in selected_modules(net, "")
    assert selected_modules(net, nn.Sequential) == [net, net[2]]


@pytest.mark.parametrize(
    ("select", "line"),
    [
        ("[", "select is '\\[', not a regular expression"),
        (3, "select is a int; expected a regular expression, a predicate on name and parameter"),
        (nn.Linear(2, 2), "select is a Linear; expected"),
        (nn.Linear(2, 2).weight, "select is a Parameter; expected"),
        ((), "chooses no"),
        (["0.weight"], "select lists a str; expected parameters themselves, or a regular expression"),
        ([nn.Linear], "select lists a type; expected"),
        (lambda name, p: False, "chooses no"),
        (lambda: True, "select is a predicate of 0 arguments; expected one of the name and the parameter"),
        (lambda a, b, c: True, "select is a predicate of 3 arguments"),
        (lambda name, *, p: True, "select is a predicate of 2 arguments"),
        (lambda name, p: name < p.ndim, "select cannot be asked of '?0.weight'?: '<' not supported"),
        (nn.Parameter, "select is a .*; expected a regular expression"),
    ],
)
def test_what_is_no_choice_is_one_line(select: Any, line: str) -> None:
    net = model()
    optimizer = optim.SGD(net.parameters(), 0.1)
    with pytest.raises(InputError, match=line):
        recorded_parameters(net, [optimizer], select)
    with pytest.raises(InputError, match=line):
        selected_parameters(optimizer, select, net)


def test_names_need_a_model_or_a_named_optimizer() -> None:
    net = model()
    for select in ("weight", lambda name, p: True, nn.Linear):
        with pytest.raises(InputError, match="give model="):
            selected_parameters(optim.SGD(net.parameters(), 0.1), select, None)
    named = optim.SGD(net.named_parameters(), 0.1)
    assert len(selected_parameters(named, lambda name, p: name.endswith("bias"), None)) == 3


def test_a_penalty_is_put_on_a_type_of_module() -> None:
    """A type can be called, and is no predicate."""
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 3))
    (found,) = selected_parameters(optim.SGD(net.parameters(), 0.1), nn.Conv2d, net)
    assert found is net[0].weight
