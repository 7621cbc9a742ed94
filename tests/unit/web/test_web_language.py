"""The console in other languages: every text that pages, scripts and code show is in every catalogue."""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from dogwatch.access.permissions import NOUNS, VERBS
from dogwatch.core.values import Status
from dogwatch.engine.values import RunState, StepState
from dogwatch.fleet.book.planned import RESULTS as PLAN_RESULTS
from dogwatch.fleet.book.planned import STATES as PLAN_STATES
from dogwatch.fleet.book.values import RunState as FleetRunState
from dogwatch.fleet.connection import State as HostState
from dogwatch.notify.message import MessageState
from dogwatch.rules.incident import RANK
from dogwatch.rules.reasons import REASONS
from dogwatch.web import application, hostview, measured, settings_pages
from dogwatch.web.bundle import said
from dogwatch.web.incident_list import STATES
from dogwatch.web.marking import SayingEnvironment
from dogwatch.web.run_view import ICONS
from dogwatch.webhooks.delivery import DeliveryState
from dogwatch.words import _LASTS, LANGUAGES, SOURCE, Phrase, Words, choose, words

# What the audit trail says was done, and how that ended, where no permission has the word.
AUDITED = {
    "decide",
    "rerun",
    "silence",
    "unsilence",
    "cut",
    "roll back",
    "reject",
    "enable",
    "disable",
    "drain",
    "ack",
    "unack",
    "resolve",
    "escalate",
    "begun",
    "failed",
    "destination",
    "delivery",
    "message",
    "fleet-plan",
}
# What descriptors are, of words; the others are the kernel's names.
FD_KINDS = {"file", "directory", "socket", "pipe", "device", "other"}
HOOK_OUTCOMES = {
    "not allowed",
    "too large",
    "busy",
    "rate limited",
    "malformed",
    "bad signature",
    "replayed",
}
TRIGGERS = {"start", "signal", "api", "file"}
WEB = Path(str(resources.files("dogwatch.web")))
WORDS = Path(str(resources.files("dogwatch.words")))
OTHERS = [language for language in LANGUAGES if language != SOURCE]
# Words of closed lists that pages show as they come.
VOCABULARY = {
    *(status.word for status in Status),
    *map(str, RunState),
    *map(str, StepState),
    *map(str, FleetRunState),
    *map(str, HostState),
    *PLAN_STATES,
    *PLAN_RESULTS,
    *RANK,
    *STATES,
    *ICONS,
    *measured._LABELS.values(),
    *REASONS.values(),
    *settings_pages._GAUGES.values(),
    *settings_pages._PARTS.values(),
    *hostview.COLLECTORS,
    *AUDITED,
    *FD_KINDS,
    *TRIGGERS,
    "healthy", "starting",
    *HOOK_OUTCOMES,
    *NOUNS,
    *VERBS,
    *map(str, DeliveryState),
    *map(str, MessageState),
    *_LASTS,
    "Network in", "Network out", "Disk read", "Disk write", "yes", "no",
    *(place.title for pages in application.PAGES for place in pages.places),
    # Titles of problems, and what people meet who log in.
    "Bad Request", "Unauthorized", "Forbidden", "Not Found", "Method Not Allowed", "Conflict", "Too Many Requests",
    "Precondition Failed", "begins", "ends",
    "Internal Server Error", "Service Unavailable", "there is nothing at this address", "you may not do that",
    "the name or the password is wrong", "the code is wrong", "load it again",
    "the page is too old, or cookies are refused", "an error of Dogwatch's own; the log says more",
    "you ask for too much at once", "this is not a mail address", "a webhook's address begins with https://",
    "no further subscriptions are taken now", "there is no such subscription",
    # Of timelines and of the audit trail.
    "opened", "joined", "left", "fired", "ended", "muted", "heard", "told", "acked", "unacked", "comment", "flapping",
    "escalated", "reminder", "create", "change", "delete", "redeliver", "test", "revoke", "resume", "replay", "reload",
    "plan", "logout", "login", "end", "approve", "pause", "apply", "cancel",
    "run", "done", "refused", "declined", "planned", "asked", "spent", "did",
}  # fmt: skip


def shown_by_templates() -> set[str]:
    """Return every message of every template: it is compiled with a catalogue that only takes note."""
    found: set[str] = set()

    def note(text: str) -> str:
        found.add(text)
        return text

    from dogwatch.web.assets import load_assets
    from dogwatch.web.view import page_templates

    plain = page_templates(load_assets())[SOURCE]
    environment = SayingEnvironment(
        find=note, loader=plain.loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(plain.filters)
    environment.globals.update(plain.globals)
    for name in environment.list_templates():
        environment.get_template(name)
    for file in (WEB / "templates").glob("*.html"):
        found.update(re.findall(r'\bsay\("([^"]+)"', file.read_text()))
    return found


def shown_by_scripts() -> set[str]:
    return said({file.name: file.read_text() for file in (WEB / "static").glob("*.js")})


def shown_by_code() -> Iterator[str]:
    """Yield the first arguments of Phrase("…") and ….say("…")."""
    folders = ("reports", "status", "notify")
    for file in (*WEB.rglob("*.py"), *(one for name in folders for one in (WEB.parent / name).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("Phrase", "say", "Said") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def everything() -> set[str]:
    return shown_by_templates() | shown_by_scripts() | set(shown_by_code()) | VOCABULARY


@pytest.mark.parametrize("language", OTHERS)
def test_no_text_is_untranslated(language: str) -> None:
    assert sorted(everything() - set(words(language).catalogue)) == []


@pytest.mark.parametrize("language", OTHERS)
def test_no_translation_is_left_over(language: str) -> None:
    assert sorted(set(words(language).catalogue) - everything()) == []


@pytest.mark.parametrize("language", OTHERS)
def test_translations_name_no_value_that_is_not_there(language: str) -> None:
    place = re.compile(r"\{\d+\}|</?\d+>")
    for text, other in words(language).catalogue.items():
        assert set(place.findall(other)) <= set(place.findall(text)), text
        assert other.strip(), text
        # What is opened is closed.
        assert sorted(re.findall(r"<(\d+)>", other)) == sorted(re.findall(r"</(\d+)>", other)), text


def source_text() -> str:
    """Return the strings of the whole program, one after the other."""
    found = []
    for file in WEB.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    # What systems say of errors, as probes tell it.
    return "\n".join([*found, *(os.strerror(number).lower() for number in errno.errorcode)])


@pytest.mark.parametrize("language", OTHERS)
def test_sentences_that_are_recognised_are_still_written(language: str) -> None:
    written = source_text()
    told = msgspec.json.decode((WORDS / f"{language}.told.json").read_bytes(), type=dict[str, str])
    for text, other in told.items():
        parts = [part.strip(" :;'?") for part in re.split(r"\{\d+\}", text)]
        assert [part for part in parts if part and part not in written] == [], text
        places = re.findall(r"\{\d+\}", text)
        assert places == [f"{{{at}}}" for at in range(len(places))], text
        assert set(re.findall(r"\{\d+\}", other)) <= set(places), text
        # Nothing says where the one ends and the other begins.
        assert "}{" not in text, text


def test_a_sentence_of_ours_is_recognised_when_it_is_read() -> None:
    chinese = words("zh")
    assert chinese.tell("db is down: timeout; explains 2 more") == "db 故障：超时；另外解释了 2 个"
    assert chinese.said("there is no target 'shop'") == "没有目标“shop”"
    assert chinese.tell("payments is down: unexpected status") == "payments 故障：意外的状态码"
    assert chinese.tell("exited with status 137") == "以状态 137 退出"
    assert chinese.tell("exited with status 137, out of memory") == "以状态 137 退出，内存不足"
    would = "would restart nginx for shop, then up to 2 more (budget all: 3 left)"
    assert chinese.tell(would) == "会为 shop 执行“restart nginx”，之后最多再执行 2 步（预算 all：剩余 3）"
    sent = "make the daily report of the last 1d, send it to ops"
    assert chinese.tell(sent) == "生成最近 1 天 的 daily 报告并发送给 ops"
    late = "should have called 5m ago, grace 1h; last heard of 1h5m ago"
    assert chinese.tell(late) == "应在5 分钟前呼叫，宽限 1 小时；上次呼叫在1 小时 5 分钟前"
    # One sentence in another, each by itself.
    nested = "hosts failed: 1 of 5 hosts failed: web-3: connection refused"
    assert chinese.tell(nested) == "hosts 失败：5 台主机中有 1 台失败：web-3: connection refused"
    # A name is a name, though we have the same word.
    assert chinese.tell("login is down: timeout") == "login 故障：超时"
    assert chinese.say("{0} is down: {1}", "search", "no answer within 3 s") == "search 故障：3 秒内没有响应"
    assert chinese.tell("sleep 1; done") == "sleep 1; done"
    assert chinese.tell("status of the disk: ok") == "status of the disk: ok"
    # What people wrote stays, and English is as it was.
    assert chinese.tell("the switch in the cellar is wet") == "the switch in the cellar is wet"
    assert words("en").tell("db is down") == "db is down"
    assert chinese.tell("x" * 5000) == "x" * 5000


def test_scripts_show_no_text_of_their_own() -> None:
    """Whatever a script puts on a page goes through t(): a sentence in quotes that does not is found here."""
    sentence = re.compile(r"""(?<![\w.])(["'`])([A-Z][a-z]+(?: [a-z]+)+[^"'`]*|[A-Z][a-z]{3,})\1""")
    for file in (WEB / "static").glob("*.js"):
        source = re.sub(r"//[^\n]*", "", file.read_text())
        source = re.sub(r'\b(?:t|Error)\("(?:[^"\\]|\\.)*"', "", source)
        keys = {"Enter", "Escape", "Home", "End", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Control"}
        left = [found[2] for found in sentence.finditer(source) if found[2] not in keys and found[2] != "Event"]
        assert (file.name, left) == (file.name, [])


def test_a_language_is_chosen_then_accepted_then_english() -> None:
    assert choose("zh", "en") == "zh"
    assert choose("xx", "zh-CN,zh;q=0.9,en;q=0.8") == "zh"
    assert choose("", "de, en;q=0.5, zh;q=0.7") == "zh"
    assert choose("", "en;q=0.5, zh;q=0") == "en"
    assert choose("", "de;q=rubbish,,;;") == "en"
    assert choose("", "") == "en"


def test_a_phrase_is_english_until_it_is_said() -> None:
    phrase = Phrase("{0} of {1}", 3, Phrase("four"))
    assert phrase == "3 of four"
    chinese = Words("zh", {"{0} of {1}": "{1} 中的 {0}", "four": "四"})
    assert chinese.said(phrase) == "四 中的 3"
    assert chinese.missing == set()
    chinese.say("unheard of")
    assert chinese.missing == {"unheard of"}
