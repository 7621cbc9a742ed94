"""YAML to nodes: places, bounds, and no way to build an object or to take down the process."""

import pytest
from tests.unit.config.watchlike import PROBES, problems, read

from dogwatch.config.compose import Limits, compose
from dogwatch.config.nodes import ListNode, MapNode, ScalarNode, deepest, format_path


def test_every_value_knows_its_place() -> None:
    root, found = compose("f.yaml", b"a:\n  - {b: 1,\n     c: two}\n")
    assert not found
    assert root is not None
    node = deepest(root, ("a", 0, "c"))
    assert isinstance(node, ScalarNode)
    assert (node.text, node.file, node.line, node.column) == ("two", "f.yaml", 3, 9)


def test_byte_order_mark_and_windows_line_ends() -> None:
    root, found = compose("f.yaml", b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert not found
    assert root is not None
    assert root.items["b"].line == 2


def test_comments_only_is_a_configuration_of_defaults() -> None:
    root, found = compose("f.yaml", b"# nothing yet\n")
    assert (root is not None and not root.items, found) == (True, [])


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- "])
def test_depth_is_bounded(opening: bytes) -> None:
    root, found = compose("f.yaml", b"a: " + opening * 100_000 if opening != b"- " else opening * 100_000)
    assert root is None
    assert "nested deeper than 100 levels" in found[0].message
    assert found[0].line == 1


def test_alias_bomb_is_refused_early() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    root, found = compose("f.yaml", "\n".join(lines).encode())
    assert root is None
    assert "aliases expanded" in found[0].message
    assert 4 <= found[0].line <= 7


def test_size_is_bounded() -> None:
    root, found = compose("f.yaml", b"a: " + b"x" * 2_000_000, Limits(file_bytes=1_000_000))
    assert root is None
    assert "larger than" in found[0].message


def test_duplicates_in_nested_mappings_name_the_first() -> None:
    _, found = compose("f.yaml", b"a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert [(one.line, one.message) for one in found] == [(4, "the key 'b' is already set on line 2")]


def test_merge_keys_give_defaults_that_the_mapping_wins_over() -> None:
    text = "x-base: &base {every: 5s, failures: 9}\nprobes:\n  - {<<: *base, name: a, icmp: {}, failures: 2}\n"
    target = read(text).get(PROBES)[0]
    assert (target.every, target.failures) == (5.0, 2)


def test_an_alias_may_be_used_twice() -> None:
    loaded = read("probes:\n  - {name: a, icmp: {}, labels: &l {a: b}}\n  - {name: b, icmp: {}, labels: *l}\n")
    assert [target.labels for target in loaded.get(PROBES)] == [{"a": "b"}, {"a": "b"}]


def test_no_tag_builds_anything() -> None:
    for tag in ("!!python/name:os.system", "!!python/object/new:os.system", "!!timestamp", "!!binary", "!x"):
        found = problems(f"server: {{listen: {tag} 'x'}}")
        assert len(found) == 1, tag
        assert "is not allowed" in found[0]


def test_paths_are_written_as_people_read_them() -> None:
    assert format_path(("probes", 3, "labels", "a.b", 'q"\x1b')) == 'probes[3].labels["a.b"]["q"\\x1b"]'


def test_trees_are_made_of_what_they_say() -> None:
    root, _ = compose("f.yaml", b"a: [1]\nb: {c: 'd'}\ne:\n")
    assert root is not None
    assert isinstance(root.items["a"], ListNode)
    assert isinstance(root.items["b"], MapNode)
    assert root.items["e"].null  # type: ignore[attr-defined]
