"""Joins the console's script modules into one file at start, so that a page needs one request for all of them.

There is no build step: what is edited is what is served, and every module keeps a scope of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";[^\n]*\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function |const |class )", re.MULTILINE)
_EXPORTED = re.compile(r"^export (?:async )?(?:function|const|class) (\w+)", re.MULTILINE)
_LEFT_OVER = re.compile(r"^(?:import|export)\b.*$", re.MULTILINE)
# What is read comes before what moves: the modules run once the page has been painted, and at once where somebody
# already uses it (the same key or click then reaches them), or where it is not painted at all.
_BEGIN: Final = """(() => {
let begun = false;
const asked = ["keydown", "pointerdown", "mousedown", "click", "input", "change", "submit", "focusin"];
const begin = () => {
  if (begun) return;
  begun = true;
  for (const name of asked) removeEventListener(name, begin, true);
  modules();
};
if (document.hidden || performance.getEntriesByType("paint").length) begin();
else {
  for (const name of asked) addEventListener(name, begin, true);
  requestAnimationFrame(() => setTimeout(begin));
  setTimeout(begin, 500);
}
function modules() {
"""
_SAID: Final = re.compile(r'\bt\("((?:[^"\\]|\\.)*)"')


def order(modules: Mapping[str, str], entry: str) -> list[str]:
    """Return the modules that entry needs, each after those that it imports, entry last.

    Raises: ValueError where modules import each other in a circle, KeyError for one that is not there.
    """
    done: list[str] = []
    under_way: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in under_way:
            raise ValueError(f"scripts import each other: {' > '.join((*under_way, name))}")
        under_way.append(name)
        for _names, other in _IMPORT.findall(modules[name]):
            visit(other)
        under_way.pop()
        done.append(name)

    visit(entry)
    return done


def _scope(name: str) -> str:
    return "m_" + re.sub(r"\W", "_", name.removesuffix(".js"))


def _wrapped(name: str, source: str) -> str:
    """Return a module as a function that is called once; what it exports is what the function returns."""
    exported = _EXPORTED.findall(source)
    body = _IMPORT.sub(lambda found: f"const {{{found[1].replace(' as ', ': ')}}} = {_scope(found[2])};\n", source)
    body = _EXPORT.sub("", body)
    if left := _LEFT_OVER.search(body):
        raise ValueError(f"{name}: this form cannot be joined: {left[0][:80]}")
    return f"const {_scope(name)} = (() => {{\n{body}return {{ {', '.join(exported)} }};\n}})();\n"


def bundle(modules: Mapping[str, str], entry: str) -> str:
    """Return one classic script that does what the entry module does.

    Raises: ValueError for a form of import or export that is not understood.
    """
    return _BEGIN + "".join(_wrapped(name, modules[name]) for name in order(modules, entry)) + "}\n})();\n"


def said(modules: Mapping[str, str]) -> set[str]:
    """Return every text that scripts show in the viewer's language: the first argument of t("…")."""
    return {msgspec.json.decode(f'"{text}"', type=str) for source in modules.values() for text in _SAID.findall(source)}
