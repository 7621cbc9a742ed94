"""What may be compiled, and when the compiled modules are used. The machine code itself: DOGWATCH_COMPILED=1."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dogwatch.daemon import compiled

ASK = (
    "from dogwatch.daemon.compiled import activate, status; print(activate() or 'yes'); "
    "import dogwatch.probes.watch as w"
)


def trees() -> Iterator[tuple[str, ast.Module]]:
    for module in compiled.MODULES:
        yield module, ast.parse(compiled.source_of(module).read_text())


def test_no_compiled_module_has_a_struct() -> None:
    # mypyc forgets what stands behind the base class: frozen, kw_only, and array_like, which is a format on disk.
    found = [
        f"{module}.{node.name}"
        for module, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and (node.keywords or any("Struct" in ast.unparse(base) for base in node.bases))
    ]
    assert found == []


def test_an_exception_has_a_name_of_its_own_in_each_function() -> None:
    # mypyc gives a name the type of the first clause, and refuses the exceptions of the others.
    for module, tree in trees():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            types: dict[str, set[str]] = {}
            for clause in ast.walk(function):
                if isinstance(clause, ast.ExceptHandler) and clause.name and clause.type is not None:
                    types.setdefault(clause.name, set()).add(ast.unparse(clause.type))
            assert all(len(found) == 1 for found in types.values()), (module, function.name, types)


def test_whoever_inherits_is_compiled_as_well() -> None:
    inside = {node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    sources = {compiled.source_of(module) for module in compiled.MODULES}
    for path in compiled.PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path in sources or not any(f"({name}" in text or f", {name}" in text for name in inside):
            continue
        imported = {
            alias.asname or alias.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom) and node.module in compiled.MODULES
            for alias in node.names
        }
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
                assert not bases & imported & inside, f"{path}: {node.name} inherits from a compiled class"


def manifest(folder: Path, **changes: object) -> None:
    good = compiled.Manifest(
        suffix=compiled.suffix(),
        files={},
        sources={name: compiled.fingerprint(compiled.source_of(name)) for name in compiled.MODULES},
    )
    (folder / compiled.MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(good, **changes)))


def test_only_what_was_built_from_these_sources_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    assert compiled.usable(tmp_path) == "not built (make compile)"
    manifest(tmp_path)
    assert isinstance(compiled.usable(tmp_path), compiled.Manifest)
    manifest(tmp_path, suffix=".cpython-27.so")
    assert compiled.usable(tmp_path) == "built for another Python (.cpython-27.so)"
    manifest(tmp_path, sources={"dogwatch.app": "1"})
    assert compiled.usable(tmp_path) == "built from other sources (make compile)"
    edited = {name: compiled.fingerprint(compiled.source_of(name)) for name in compiled.MODULES}
    edited["dogwatch.probes.runner"] = "0" * 32
    manifest(tmp_path, sources=edited)
    assert compiled.usable(tmp_path) == "built from another dogwatch.probes.runner (make compile)"
    (tmp_path / compiled.MANIFEST).write_bytes(b"{")
    assert str(compiled.usable(tmp_path)).startswith("cannot be read: ")
    monkeypatch.setenv(compiled.SWITCH, "0")
    assert compiled.usable(tmp_path) == "switched off by DOGWATCH_COMPILED=0"


def ask(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def test_it_is_all_or_nothing() -> None:
    said = ask(f"import dogwatch.probes.lateness; {ASK}; print(w.__file__.endswith('.py'))")
    if said[0] != "dogwatch.probes.lateness was imported before":
        pytest.skip(f"the compiled modules cannot be used here: {said[0]}")
    assert said[1] == "True"


def test_the_compiled_modules_are_the_ones_imported() -> None:
    files = "[sys.modules[name].__file__.rpartition('.')[2] for name in MODULES if name in sys.modules]"
    said = ask(f"{ASK}; import sys; from dogwatch.daemon.compiled import MODULES; print(set({files}), status())")
    if said[0] != "yes":
        assert said[1] == f"{{'py'}} interpreted: {said[0]}"
        pytest.skip(f"the compiled modules cannot be used here: {said[0]}")
    assert said[1] == "{'so'} compiled"
