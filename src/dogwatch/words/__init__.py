"""The languages of pages and messages: English as it is written in templates, scripts and code, and one catalogue each
for the others (`<language>.json`: the English text to the other; `<language>.told.json`: sentences that are kept or
answered in English, recognised when somebody reads them, or gets them sent).

Placeholders are `{0}`, `{1}`… for values and `<1>…</1>` for inline elements; a translation may leave some out (an
English plural's "s"), and may change their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Literal

import msgspec

from dogwatch.core.units import format_duration

SOURCE = "en"
Language = Literal["en", "zh"]
LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文"}
# What `lang` says: Chinese here is written in simplified characters.
TAGS: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
COOKIE = "dogwatch_language"
_MOST_TOLD, _MOST_KEPT, _DEEPEST = 1000, 5000, 5
_PLACE = re.compile(r"\{(\d+)\}")
# "3 opened, 1 resolved"
_COUNTED = re.compile(r"\d+ [a-z]+(?:, \d+ [a-z]+)*")
# As units.py writes durations: "1h30m", "1.5s", "250ms".
_DURATION = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?|([\d.]+)ms")
_LASTS = ("{0} d", "{0} h", "{0} min", "{0} s", "{0} ms")
# A line of a report: how far it is set in, how bad it is, and where it leads, are no part of its sentence.
_LINE = re.compile(r"(\s*)(?:\[(\w+)\] )?(.*?)(  https?://\S+)?", re.DOTALL)


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


def lasting(seconds: float) -> Phrase:
    """Return how long something lasts, for people: "1 h 30 min", "40 s"."""
    return spelled(format_duration(seconds)) or Phrase("{0} s", 0)


def spelled(text: str) -> Phrase | None:
    """Return what format_duration wrote, "1h30m", for people; None for any other text."""
    match = _DURATION.fullmatch(text)
    parts = (
        [Phrase(unit, amount) for unit, amount in zip(_LASTS, match.groups(), strict=True) if amount] if match else []
    )
    return (
        Phrase(" ".join(f"{{{at}}}" for at in range(len(parts))), *parts) if len(parts) > 1 else next(iter(parts), None)
    )


def _shape(text: str) -> re.Pattern[str]:
    """Return what recognises a sentence with values in place of its placeholders, which stand in order.

    A value that it begins with holds no ": ": what stands before one is another sentence, "dump failed: 1 of 5 …".
    Beside a single word ("status {0}") a value is a word, too: sentences of others begin with words as ours do.
    """
    parts = ["(.+?)"] * (2 * len(_PLACE.findall(text)) + 1)
    parts[::2] = map(re.escape, re.split(r"\{\d+\}", text))
    if len(parts) == 3 and _PLACE.sub("", text).strip().isalpha():
        parts[1] = r"(\S+)"
    elif not parts[0] and len(parts) > 1:
        parts[1] = "((?:(?!: ).)+?)"
    return re.compile("".join(parts), re.DOTALL)


def _filled(text: str, values: Sequence[object]) -> str:
    return _PLACE.sub(lambda place: str(values[int(place[1])]), text) if values else text


class Words:
    """One language. missing: texts that were asked for and are not in the catalogue, for the test of it."""

    def __init__(self, language: str, catalogue: Mapping[str, str], told: Mapping[str, str] | None = None) -> None:
        self.language = language
        # What says most is tried first: "{0} of {1} hosts failed" before "{0} failed".
        shapes = sorted((told or {}).items(), key=lambda one: -len(_PLACE.sub("", one[0])))
        # Most sentences are none of ours: a part that must be in one is looked for first, which costs next to nothing.
        self._told = [(max(re.split(r"\{\d+\}", text), key=len), _shape(text), other) for text, other in shapes]
        self._exact = {text: other for text, other in shapes if "{" not in text}
        self._kept: dict[str, str] = {}
        self.tag = TAGS.get(language, language)
        self.catalogue = catalogue
        self.missing: set[str] = set()

    def find(self, text: str) -> str:
        """Return a text in this language, with its placeholders; as it is where nobody has translated it."""
        if self.language == SOURCE or not _PLACE.sub("", text).strip():
            return text
        found = self.catalogue.get(text)
        if found is None:
            self.missing.add(text)
            return text
        return found

    def say(self, text: str, *values: object) -> str:
        """Return a text with its values."""
        return _filled(self.find(text), [self.value(value) for value in values])

    def value(self, value: object, depth: int = 1) -> object:
        """Return a value of a sentence: a phrase and a sentence of ours in this language. A word is somebody's name,
        even where we have the same (a target "login"), unless it is one of the few that sentences are made of.
        """
        if isinstance(value, Phrase):
            return self.say(value.text, *value.values)
        if not isinstance(value, str) or not self._told:
            return value
        if lasts := spelled(value):
            return self.say(lasts.text, *lasts.values)
        return self._exact.get(value, value) if " " not in value else self.tell(value, depth)

    def said(self, value: object) -> object:
        """Return a phrase in this language, a word of a fixed vocabulary and a sentence of ours, too; anything else as
        it is.
        """
        if isinstance(value, Phrase):
            return self.say(value.text, *value.values)
        return self.tell(value) if isinstance(value, str) else value

    def tell(self, text: str, depth: int = 0) -> str:
        """Return a sentence that this program composed before it knew who reads it (a reason, a summary, a refusal), in
        this language; as it is where it is none of those that are known, as what people and programs wrote.
        """
        known = self._exact.get(text) or self._kept.get(text)
        if known is None and (not depth or " " in text):
            known = self.catalogue.get(text)
        if known is not None or not self._told or len(text) > _MOST_TOLD or depth > _DEEPEST:
            return text if known is None else known
        found = text
        for part, shape, other in self._told:
            if part in text and (match := shape.fullmatch(text)):
                found = _filled(other, [self.value(value, depth + 1) for value in match.groups()])
                break
        else:
            parts = text.split("; ")
            said = [str(self.value(part, depth + 1)) for part in parts] if len(parts) > 1 else []
            # Of a command ("sleep 1; done") no more than a word is known.
            if any(" " in part and one != part for part, one in zip(parts, said, strict=False)):
                found = "；".join(said)
            elif _COUNTED.fullmatch(text):
                counts = (part.partition(" ") for part in text.split(", "))
                found = "，".join(f"{self.word(what)} {count}" for count, _, what in counts)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[text] = found
        return found

    def tell_lines(self, text: str) -> str:
        """Return a text of several lines, each of them a sentence that may be known."""
        return text if self.language == SOURCE else "\n".join(map(self._told_line, text.split("\n")))

    def _told_line(self, line: str) -> str:
        match = _LINE.fullmatch(line)
        if match is None or not match[3]:
            return line
        mark = f"[{self.word(match[2])}] " if match[2] else ""
        return f"{match[1]}{mark}{self.tell(match[3])}{match[4] or ''}"

    def word(self, text: object) -> str:
        """Return a word of a fixed vocabulary (a state, a severity); what is none of it stays as it is."""
        return self.catalogue.get(str(text), str(text))


@lru_cache(maxsize=len(LANGUAGES))
def words(language: str) -> Words:
    """Return a language of LANGUAGES."""
    if language == SOURCE:
        return Words(SOURCE, {})
    folder = resources.files(__name__)
    said, told = (
        msgspec.json.decode((folder / name).read_bytes(), type=dict[str, str])
        for name in (f"{language}.json", f"{language}.told.json")
    )
    return Words(language, said, told)


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
