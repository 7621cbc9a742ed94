"""The sections of the whole program: their schema fits them, and no malformed text gets past the loader."""

from __future__ import annotations

import string
from functools import cache

import jsonschema_rs
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SourceFile
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.schema import schema
from dogwatch.config.show import rows
from dogwatch.config.starter import starter
from dogwatch.config.structs import FamilyShape
from dogwatch.daemon.sections import SECTIONS
from dogwatch.errors import ConfigError

FUZZ = settings(
    max_examples=1000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
PIECES = [
    "~",
    "true",
    "-1",
    "5s",
    "${X}",
    "'",
    '"',
    "\n",
    "\n  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "\t",
    "x: ",
]


@cache
def catalog() -> Catalog:
    return Catalog(SECTIONS)


@cache
def text() -> str:
    return starter(catalog())


def load(document: str) -> Loaded:
    loader = Loader([], catalog(), environ={})
    reading = Reading(files=(SourceFile("a.yaml", document.encode("utf-8", "surrogatepass")),))
    return loader.validate(loader.parse_reading(reading))


def check(document: str) -> None:
    """Load a document: a configuration or a ConfigError that names the file, nothing else."""
    try:
        loaded = load(document)
    except ConfigError as error:
        strangers = [problem for problem in error.problems if problem.file != "a.yaml"]
    else:
        strangers = []
        assert rows(loaded)
    assert not strangers


def test_the_starter_is_valid_by_loader_and_schema() -> None:
    assert load(text()).files == ("a.yaml",)
    validator = jsonschema_rs.Draft202012Validator(schema(catalog()))
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text()))] == []


def test_every_setting_has_a_value_and_an_origin() -> None:
    found = rows(load(text()))
    assert {row.path.split(".")[0].split("[")[0] for row in found} == set(catalog().sections)
    assert all(row.origin == "default" or row.origin.startswith("a.yaml:") for row in found)


def test_every_kind_without_options_is_told_what_it_needs() -> None:
    shape = catalog().shapes["probes"].item  # type: ignore[attr-defined]
    for field in shape.families:
        assert isinstance(field.family, FamilyShape)
        for kind in field.family.kinds():
            check(f"probes:\n  - name: a\n    {kind}:\n")
            check(f"probes:\n  - name: a\n    {kind}: text\n")
            check(f"probes:\n  - name: a\n    {kind}: [1]\n")


@FUZZ
@given(st.data())
def test_characters_changed(data: st.DataObject) -> None:
    document = text()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(document)))
        put = data.draw(st.one_of(st.sampled_from(PIECES), st.text(string.printable, max_size=4)))
        document = document[:at] + put + document[at + data.draw(st.integers(0, 5)) :]
    check(document)


@FUZZ
@given(st.data())
def test_values_replaced(data: st.DataObject) -> None:
    """Put any scalar in the place of any option's value of any kind."""
    shape = catalog().shapes["probes"].item  # type: ignore[attr-defined]
    family = shape.families[0].family
    kind = data.draw(st.sampled_from(family.kinds()))
    struct = family.shape(kind)
    options = data.draw(st.dictionaries(st.sampled_from(sorted(struct.keys)), VALUES, max_size=4))
    others = data.draw(st.dictionaries(st.sampled_from(sorted(shape.keys)), VALUES, max_size=3))
    target = {"name": "a", **others, kind: options}
    check(yaml.safe_dump({"probes": [target, {"name": "b", "icmp": "127.0.0.1"}]}))


WORDS = st.sampled_from(
    ["", "a", "5s", "10MB", "127.0.0.1", "http://[", "http://a:99999", "::1", "a:1", "status ==", "*", "\n"]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-1, 70000), WORDS, st.text(max_size=6))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=4), SCALARS, max_size=3))
