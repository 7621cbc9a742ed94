"""Counters of the web part."""

from __future__ import annotations

import pytest

from dogwatch.core.metrics import render
from dogwatch.web.meter import Meter, route


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "page"),
        ("/targets/shop%2Fcheckout", "page"),
        ("/api/v1/targets", "api"),
        ("/api/v1/events", "events"),
        ("/badge.svg", "badge"),
        ("/wp-login.php", "other"),
        ("/apis", "other"),
        ("*", "page"),
    ],
)
def test_addresses_have_few_classes(path: str, kind: str) -> None:
    assert route(path) == kind


def test_histogram_is_cumulative_and_streams_have_no_time() -> None:
    meter = Meter()
    meter.answered("api", "GET", 200, 0.001)
    meter.answered("api", "GET", 404, 0.3)
    meter.answered("api", "BREW", 405, 60.0)
    meter.answered("events", "GET", 200, 3600.0)
    text = render(meter.families())
    name = "dogwatch_web_request_duration_seconds"
    assert f'{name}_bucket{{route="api",le="0.001"}} 1.0' in text
    assert f'{name}_bucket{{route="api",le="0.5"}} 2.0' in text
    assert f'{name}_bucket{{route="api",le="+Inf"}} 3.0' in text
    assert f'{name}_count{{route="api"}} 3.0' in text
    assert 'dogwatch_web_requests_total{route="api",method="other",status="405"} 1.0' in text
    assert 'route="events",le=' not in text


def test_refusals_have_reasons() -> None:
    meter = Meter()
    meter.refused(421)
    meter.refused(404)
    text = render(meter.families())
    assert 'dogwatch_web_refused_total{reason="wrong name"} 1.0' in text
    assert text.count("dogwatch_web_refused_total{") == 7
