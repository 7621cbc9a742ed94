"""The `schedules` section: what it takes, and every mistake at once, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dogwatch.config.load import Loader
from dogwatch.config.section import Section
from dogwatch.engine.schedules.section import schedules_section
from dogwatch.engine.schedules.spec import describe
from dogwatch.engine.spec import JobSpec, Parameter
from dogwatch.errors import ConfigError

JOBS: Section[list[JobSpec]] = Section(
    key="known_jobs",
    type=list[str],
    doc="Jobs of this test.",
    default=lambda: [
        JobSpec(name="backup", steps=[], parameters={"target": Parameter(), "level": Parameter(default=1)}),
        JobSpec(name="report", steps=[]),
    ],
)


def load(text: str, tmp_path: Path) -> Any:
    (tmp_path / "dogwatch.yaml").write_text(text)
    section = schedules_section(JOBS)
    return Loader([tmp_path / "dogwatch.yaml"], (JOBS, section), environ={}).load().get(section)


def problems(text: str, tmp_path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    return [
        f"{one.line} {one.path}: {one.message}{f'; {one.hint}' if one.hint else ''}" for one in caught.value.problems
    ]


def test_every_way_to_say_when(tmp_path: Path) -> None:
    specs = load(
        """
schedules:
  - {name: a, job: report, cron: "~ 3 * * *", time_zone: Europe/Berlin}
  - {name: b, job: backup, parameters: {target: /var}, every: 15m, anchor: 2026-01-01T00:05}
  - {name: c, job: report, at: ["06:30", 18:00]}
  - {name: d, job: report, calendar: [2026-12-24, 01-06], at: ["08:00"], start: 2026-12-01}
  - name: e
    job: report
    cron: "*/10 * * * * *"
    jitter: 2s
    misfire: all
    blackout:
      - {from: "22:00", to: "06:00", note: backups}
      - {cron: 0 12 * * 5, duration: 90m, time_zone: Asia/Tokyo}
    blackout_policy: defer
""",
        tmp_path,
    )
    assert [describe(spec) for spec in specs] == [
        "~ 3 * * * (Europe/Berlin)",
        "every 15m",
        "at 06:30, 18:00",
        "2026-12-24, 01-06 at 08:00",
        "*/10 * * * * *",
    ]
    assert specs[4].blackout[0].from_ == "22:00"


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    found = problems(
        """
schedules:
  - {name: a, job: report, cron: "61 * * x *", time_zone: Europe/Berln}
  - {name: a, job: report, cron: "0 * * * *", every: 5m}
  - {name: b, job: report}
  - {name: c, job: report, every: 10ms, end: soon}
  - {name: d, job: report, cron: "0 0 31 2 *"}
  - {name: e, job: report, calendar: [13-01], at: ["25:00"]}
  - name: f
    job: report
    cron: "@hourly"
    blackout:
      - {cron: "0 * * *", duration: 1h}
      - {from: "22:00"}
      - {from: "22:00", to: "22:00"}
      - {note: nothing}
  - {name: g, job: report, cron: "@hourly", start: 2026-02-01, end: 2026-01-01}
  - {name: h, job: report, cron: "0 3 * * *", blackout: [{from: "02:00", to: "04:00"}]}
""",
        tmp_path,
    )
    assert sorted(one.split(": ")[0] for one in found) == sorted(
        [
            "3 schedules[0].cron",
            "3 schedules[0].cron",
            "3 schedules[0].time_zone",
            "4 schedules[1].name",
            "4 schedules[1].every",
            "5 schedules[2]",
            "6 schedules[3].every",
            "6 schedules[3].end",
            "7 schedules[4].cron",
            "8 schedules[5].calendar[0]",
            "8 schedules[5].at[0]",
            "13 schedules[6].blackout[0].cron",
            "14 schedules[6].blackout[1]",
            "15 schedules[6].blackout[2]",
            "16 schedules[6].blackout[3]",
            "17 schedules[7].end",
            "18 schedules[8]",
        ]
    )
    text = "\n".join(found)
    for words in (
        "minute '61' is not understood",
        "month 'x' is not understood",
        "did you mean 'Europe/Berlin'?",
        "'a' is the name of schedules[0], too",
        "cron and every together",
        "nothing says when it fires",
        "must be at least 1s",
        "never fires",
    ):
        assert words in text


def test_jobs_and_their_parameters_are_checked(tmp_path: Path) -> None:
    found = problems(
        """
schedules:
  - {name: a, job: bakup, cron: "@hourly"}
  - {name: b, job: backup, cron: "@hourly"}
  - name: c
    job: backup
    cron: "@hourly"
    parameters:
      target: /var
      levle: 2
""",
        tmp_path,
    )
    assert found == [
        "3 schedules[0].job: unknown job 'bakup'; did you mean 'backup'?",
        "4 schedules[1].job: the job 'backup' needs the parameter 'target'; write it below parameters",
        "10 schedules[2].parameters.levle: the job 'backup' has no parameter 'levle'; did you mean 'level'?",
    ]


def test_a_moment_that_has_passed_is_no_mistake(tmp_path: Path) -> None:
    assert len(load('schedules: [{name: a, job: report, at: ["2020-01-01T00:00"]}]', tmp_path)) == 1
