"""Texts of templates are found and said; everything else of a template stays as it is, to the letter."""

from __future__ import annotations

import jinja2
import pytest

from dogwatch.web.bundle import bundle, order, said
from dogwatch.web.marking import SayingEnvironment

GERMAN = {
    "Show all {0}": "Alle {0} zeigen",
    "No run matches. <1>Show all</1>": "<1>Alle zeigen</1>: kein Lauf passt.",
    "{0} run{1}": "{0} Läufe",
    "Search": "Suche",
    "never": "nie",
    "Write it into {0}.": "Schreib es in {0}.",
    "Drain {0}": "{0} leeren",
    "Food & wine": "Essen & Wein",
    "It stops.&#10;At once.": "Es hält an.&#10;Sofort & ganz.",
}


def drawn(source: str, **values: object) -> tuple[str, list[str]]:
    """Return what a template draws in another language, and which texts were looked for."""
    seen: list[str] = []

    def find(text: str) -> str:
        seen.append(text)
        return GERMAN.get(text, text)

    environment = SayingEnvironment(find=find, loader=jinja2.DictLoader({"t": source}), autoescape=True)
    return environment.get_template("t").render(**values), seen


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("<p>Show all {{ n }}</p>", "<p>Alle 3 zeigen</p>"),
        (
            '<p>No run matches. <a href="/runs">Show all</a></p>',
            '<p><a href="/runs">Alle zeigen</a>: kein Lauf passt.</p>',
        ),
        ("<b>{{ n }} run{{ '' if n == 1 else 's' }}</b>", "<b>3 Läufe</b>"),
        ('<input placeholder="Search" name="Search">', '<input placeholder="Suche" name="Search">'),
        ("<td>{{ 'never' if n else 'x' }}</td>", "<td>nie</td>"),
        ("<p>Write it into <code>never</code>.</p>", "<p>Schreib es in <code>never</code>.</p>"),
        ('<form data-confirm="Drain {{ evil }}">', '<form data-confirm="&lt;b&gt; leeren">'),
        # What an attribute writes as an entity stays one.
        ('<form data-effect="It stops.&#10;At once.">', '<form data-effect="Es hält an.&#10;Sofort &amp; ganz.">'),
        ("<pre>Search</pre><script>Search</script>", "<pre>Search</pre><script>Search</script>"),
        ("<p>Food &amp; wine</p>", "<p>Essen &amp; Wein</p>"),
        ("<p>{% if n %}Search{% else %}{{ n }}{% endif %} · Search</p>", "<p>Suche · Suche</p>"),
        ('<a {% if n > 2 %}class="x"{% endif %}>Search</a>', '<a class="x">Suche</a>'),
        ("{{ evil }} 12 · <b></b>", "&lt;b&gt; 12 · <b></b>"),
        ("{% set x = 'never' %}<i class=\"{{ 'never' if n }}\">{{ x }}</i>", '<i class="never">never</i>'),
    ],
)
def test_what_is_said(source: str, wanted: str) -> None:
    assert drawn(source, n=3, evil="<b>")[0] == wanted


def test_tags_whose_other_half_is_elsewhere_end_a_text() -> None:
    source = "{% if a %}<span>{% endif %}Search <b>Search</b>{% if a %}</span>{% endif %}<a><p>Search</a></p>"
    text, seen = drawn(source, a=True)
    assert "Search <1>Search</1>" in seen
    assert text == "<span>Search <b>Search</b></span><a><p>Suche</a></p>"


def test_without_a_catalogue_a_template_is_what_it_was() -> None:
    environment = SayingEnvironment(find=None, loader=jinja2.DictLoader({"t": "<p>Show all {{ 'never' }}</p>"}))
    assert environment.get_template("t").render() == "<p>Show all never</p>"


MODULES = {
    "app.js": 'import { one, two as other } from "./a.js";\nimport { three } from "./b.js";\none(other, three);\n',
    "a.js": 'import { three } from "./b.js";\nexport function one() {}\nexport const two = t("Hello {0}", three);\n',
    "b.js": "export class three {}\nlet own = 1;\n",
}


def test_modules_stand_after_those_they_need() -> None:
    assert order(MODULES, "app.js") == ["b.js", "a.js", "app.js"]
    joined = bundle(MODULES, "app.js")
    assert "import " not in joined
    assert "export " not in joined
    assert "const { one, two: other } = m_a;" in joined
    assert joined.index("m_b = ") < joined.index("m_a = ") < joined.index("m_app = ")
    assert said(MODULES) == {"Hello {0}"}


def test_what_cannot_be_joined_stops_the_start() -> None:
    with pytest.raises(ValueError, match="import each other"):
        bundle({"app.js": 'import { x } from "./b.js";\n', "b.js": 'import { y } from "./app.js";\n'}, "app.js")
    for source in ("export default 1;\n", 'export * from "./b.js";\n', 'import x from "./b.js";\n'):
        with pytest.raises(ValueError, match="cannot be joined"):
            bundle({"app.js": source, "b.js": ""}, "app.js")
    with pytest.raises(KeyError):
        bundle({"app.js": 'import { x } from "./gone.js";\n'}, "app.js")
