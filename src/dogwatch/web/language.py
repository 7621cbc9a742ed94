"""The languages of the console: English as it is written in templates, scripts and code, and one catalogue each for
the others (`words/<language>.json`: the English text to the other).

Placeholders are `{0}`, `{1}`… for values and `<1>…</1>` for inline elements; a translation may leave some out (an
English plural's "s"), and may change their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources

import msgspec

SOURCE = "en"
LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文"}
# What `lang` says: Chinese here is written in simplified characters.
TAGS: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
COOKIE = "dogwatch_language"
_PLACE = re.compile(r"\{(\d+)\}")


class Phrase(str):
    """A text with values, in English as a string, for code that does not know yet who reads it. `said` of a template
    says it in the reader's language.
    """

    __slots__ = ("text", "values")
    text: str
    values: tuple[object, ...]

    def __new__(cls, text: str, *values: object) -> Phrase:
        phrase = super().__new__(cls, _filled(text, values))
        phrase.text, phrase.values = text, values
        return phrase


def _filled(text: str, values: Sequence[object]) -> str:
    return _PLACE.sub(lambda place: str(values[int(place[1])]), text) if values else text


class Words:
    """One language. missing: texts that were asked for and are not in the catalogue, for the test of it."""

    def __init__(self, language: str, catalogue: Mapping[str, str]) -> None:
        self.language = language
        self.tag = TAGS.get(language, language)
        self.catalogue = catalogue
        self.missing: set[str] = set()

    def find(self, text: str) -> str:
        """Return a text in this language, with its placeholders; as it is where nobody has translated it."""
        if self.language == SOURCE:
            return text
        found = self.catalogue.get(text)
        if found is None:
            self.missing.add(text)
            return text
        return found

    def say(self, text: str, *values: object) -> str:
        """Return a text with its values."""
        return _filled(self.find(text), [self.said(value) for value in values])

    def said(self, value: object) -> object:
        """Return a phrase in this language, a word of a fixed vocabulary, too; anything else as it is."""
        if isinstance(value, Phrase):
            return self.say(value.text, *value.values)
        return self.word(value) if isinstance(value, str) else value

    def word(self, text: object) -> str:
        """Return a word of a fixed vocabulary (a state, a severity); what is none of it stays as it is."""
        return self.catalogue.get(str(text), str(text))


@lru_cache(maxsize=len(LANGUAGES))
def words(language: str) -> Words:
    """Return a language of LANGUAGES."""
    if language == SOURCE:
        return Words(SOURCE, {})
    source = resources.files("dogwatch.web") / "words" / f"{language}.json"
    return Words(language, msgspec.json.decode(source.read_bytes(), type=dict[str, str]))


def choose(chosen: str, accepted: str) -> str:
    """Return the language of a viewer. chosen: of the cookie, "" for none. accepted: the header Accept-Language."""
    if chosen in LANGUAGES:
        return chosen
    offers: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted[:500].split(",")):
        tag, _, parameters = part.strip().partition(";")
        base = tag.strip().lower().partition("-")[0]
        name, _, quality = parameters.strip().partition("=")
        try:
            weight = float(quality) if name.strip() == "q" else 1.0
        except ValueError:
            weight = 0.0
        if base in LANGUAGES and weight > 0:
            offers.append((-weight, place, base))
    return min(offers)[2] if offers else SOURCE
