from dataclasses import dataclass, field

import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.records import from_json, to_json


@dataclass(frozen=True)
class Leaf:
    size: float = field(metadata={"old": "N"})
    note: str | None = None


@dataclass(frozen=True)
class Tree:
    one: Leaf
    many: list[Leaf]
    named: dict[str, list[Leaf]]
    maybe: Leaf | None


def test_a_tree_is_read_as_it_was_written():
    tree = Tree(Leaf(1.5), [Leaf(2.0, "two")], {"a": [Leaf(3.0)], "b": []}, None)
    values = to_json(tree)
    assert values["many"] == [{"size": 2.0, "note": "two"}]
    assert from_json(Tree, values) == tree
    assert np.isnan(from_json(Leaf, {"size": None}).size or np.nan) and from_json(Leaf, {"size": 2}).size == 2
    values["one"] = {"N": 1.5}
    values["unknown"] = 7
    assert from_json(Tree, values) == tree, "an old name, a default and a name of later files"


def test_numpy_becomes_json_and_digits_are_cut():
    found = to_json({"a": np.array([1.0, np.nan]), "b": np.int64(3), "c": np.bool_(True)})
    assert found == {"a": [1.0, None], "b": 3, "c": True}
    assert [type(found[name]) for name in "bc"] == [int, bool]
    assert to_json(2 / 3, digits=3) == 0.667
    assert to_json(2 / 3) == 2 / 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"many": [{"size": 1.0}, {}]}, r"no 'many\[1\]\.size'"),
        ({"named": {"a": [{}]}}, r"no 'named\.a\[0\]\.size'"),
        ({"one": 3}, "one is not a mapping"),
        ({"one": {"size": "2"}}, r"one\.size: expected a number, found '2\'"),
        ({"one": {"size": True}}, r"one\.size: expected a number, found True"),
        ({"one": {"size": [1.0]}}, r"one\.size: expected a number, found \[1\.0\]"),
        ({"one": {"size": 1.0, "note": 3}}, r"one\.note: expected text, found 3"),
        ({"many": {"size": 1.0}}, r"many: expected a list, found {"),
        ({"named": [1]}, r"named: expected fields, found \[1\]"),
    ],
)
def test_what_is_absent_is_named(change, message):
    values = to_json(Tree(Leaf(1.0), [], {}, None)) | change
    with pytest.raises(InputError, match=message):
        from_json(Tree, values)
    with pytest.raises(InputError, match="the top level is not a mapping"):
        from_json(Tree, [])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"one": {"size": "1"}}, r"one\.size: expected a number, found '1'"),
        ({"one": {"size": True}}, r"one\.size: expected a number, found True"),
        ({"one": {"size": [1]}}, r"one\.size: expected a number, found \[1\]"),
        ({"one": {"size": 1, "note": 3}}, r"one\.note: expected text, found 3"),
        ({"many": {}}, r"many: expected a list, found \{\}"),
        ({"named": []}, r"named: expected fields, found \[\]"),
    ],
)
def test_a_value_of_another_type_is_refused(broken, message):
    whole = {"one": {"size": 1}, "many": [], "named": {}, "maybe": None}
    assert from_json(Tree, whole).one.size == 1
    assert from_json(Tree, whole | {"one": {"size": None}}).one.size is None, "NaN is null in JSON"
    with pytest.raises(InputError, match=message):
        from_json(Tree, whole | broken)
