"""Endpoints in the configuration, and how secrets are masked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hooking import Fixed, endpoint
from tests.runs import job

from dogwatch.config.build import Catalog
from dogwatch.config.files import Reading, SourceFile
from dogwatch.config.load import Loaded, Loader
from dogwatch.config.section import Section
from dogwatch.core.clock import ManualClock
from dogwatch.engine.spec import JobSpec, Parameter
from dogwatch.errors import ConfigError
from dogwatch.webhooks.hooks import Hooks
from dogwatch.webhooks.masks import masked_pairs, masked_text
from dogwatch.webhooks.schemes import GithubScheme, HmacScheme, NoScheme
from dogwatch.webhooks.section import HOOKS, HookRate


def load(text: str) -> Loaded:
    loader = Loader([], Catalog([HOOKS]), environ={})
    return loader.validate(loader.parse_reading(Reading(files=(SourceFile("a.yaml", text.encode()),))))


def test_endpoints_as_they_are_written() -> None:
    found = load(
        """
hooks:
  - name: shop
    job: deploy
    github: {secrets: [one, two]}
    filter: 'event == "push" && payload.ref.startsWith("refs/tags/")'
    parameters: {tag: payload.ref, who: payload.sender.login}
    max_size: 256KiB
    rate: {max: 30, per: 1m}
    allowed: [192.0.2.0/24]
  - name: chat
    job: ask
    hmac:
      header: X-Slack-Signature
      secrets: [x]
      prefix: v0=
      signed: "v0:{timestamp}:{body}"
      timestamp_header: X-Slack-Request-Timestamp
  - name: lab
    job: ask
    none: {unsafe: true}
"""
    ).get(HOOKS)
    assert found[0].scheme == GithubScheme(secrets=("one", "two"))
    assert (found[0].max_size, found[0].rate) == (262144, HookRate(max=30, per=60.0))
    assert isinstance(found[1].scheme, HmacScheme)
    assert isinstance(found[2].scheme, NoScheme)


def test_every_mistake_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError) as error:
        load(
            """
hooks:
  - name: a/b
    job: " "
    github: {}
    filter: payload.x ==
    parameters: {a: nothing, b: payload.b}
    dedupe: paylod.id
    max_size: 1GiB
    tolerance: 0s
    rate: {max: 1, per: 0s}
    allowed: [192.0.2.1/24]
  - name: twice
    job: x
    none: {}
    remember: 1s
  - name: twice
    job: x
    standard: {secrets: ["hidden!"]}
"""
        )
    found = {problem.path.removeprefix("hooks"): problem for problem in error.value.problems}
    assert set(found) == {
        "[0].name",
        "[0].job",
        "[0].github.secrets",
        "[0].filter",
        "[0].parameters.a",
        "[0].dedupe",
        "[0].max_size",
        "[0].tolerance",
        "[1].remember",
        "[0].rate.per",
        "[0].allowed[0]",
        "[1].none.unsafe",
        "[2].name",
        "[2].standard.secrets[0]",
    }
    assert found["[0].dedupe"].hint == "did you mean 'payload'?"
    assert all(problem.line for problem in found.values())
    assert "hidden!" not in str(error.value)


def test_a_job_that_is_not_there_or_wants_other_parameters() -> None:
    jobs: Section[list[JobSpec]] = Section(key="jobs", type=list[JobSpec], doc="", default=list)
    hooks = Hooks(None, None, clock=ManualClock(), spawn=lambda *_: None, jobs=jobs)  # type: ignore[arg-type, return-value]
    deploy = job("deploy", parameters={"sha": Parameter(), "env": Parameter(default="test")})
    good = endpoint(parameters={"sha": "payload.after"})
    hooks.prepare(Fixed(hooks=[good], jobs=[deploy]))
    bad = [endpoint(job="deplyo"), endpoint(parameters={"shaa": "payload.after"})]
    with pytest.raises(ConfigError) as error:
        hooks.prepare(Fixed(hooks=bad, jobs=[deploy]))
    assert [(problem.path, problem.hint) for problem in error.value.problems] == [
        ("hooks[0].job", "did you mean 'deploy'?"),
        ("hooks[1].parameters.shaa", "did you mean 'sha'?"),
        ("hooks[1].parameters", "write sha: and where it is in the payload"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-hub-signature-256",
            "x-hub-signature",
            "stripe-signature",
        ),
        *("webhook-signature", "svix-signature", "x-gitlab-token", "x-api-key", "apikey", "x-auth-email", "x-csrf"),
        *("x-amz-security-token", "password", "X-Session-Id", "client_secret", "access_key"),
    ],
)
def test_what_is_secret_by_name(name: str) -> None:
    assert masked_pairs({name: "value"}, ()) == {name: "***"}


@pytest.mark.parametrize("name", ["x-github-delivery", "webhook-id", "webhook-timestamp", "content-type", "user-agent"])
def test_what_helps_to_find_a_delivery_is_shown(name: str) -> None:
    assert masked_pairs({name: "value"}, ()) == {name: "value"}


@given(st.dictionaries(st.text(), st.text(), max_size=300), st.text(min_size=4, max_size=20))
def test_masked_is_bounded_and_without_the_secret(pairs: dict[str, str], secret: str) -> None:
    found = masked_pairs({**pairs, "x": f"a{secret}b"}, [secret])
    assert len(found) <= 100
    # Only what the mask itself makes could hold it.
    assert secret in "***" or "*" in secret or all(secret not in value for value in found.values())


def test_short_secrets_tear_no_holes() -> None:
    assert masked_text("abc", ["b"]) == "abc"
    assert masked_text("a long-secret b", ["long-secret", "x"]) == "a *** b"
