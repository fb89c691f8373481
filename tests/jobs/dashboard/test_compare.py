"""Two runs side by side: ratios where both are known, and the settings in which they differ."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from jobs.dashboard.compare import LONGEST_GAP_S, differences, ratio, worked_seconds
from jobs.dashboard.run_job import RunJob

JOB = {
    "name": "a",
    "prompts": [{"name": "building", "expression": "the buildings"}],
    "model": {"name": "remotesam", "precision": "bf16"},
    "compute": {"readers": 4, "gpus": "auto", "batch": 8, "budget_usd": None},
    "output": {"mosaic": "/a", "engine": "icechunk", "commit_shards": 7},
    "imagery": {"bands": ["red", "green"]},
}


@pytest.mark.parametrize(("a", "b", "known"), [(2.0, 3.0, 1.5), (None, 3.0, None), (2.0, None, None), (0.0, 3.0, None)])
def test_a_ratio_is_known_where_both_are(a: float | None, b: float | None, known: float | None) -> None:
    assert ratio(a, b) == known


def test_only_settings_that_differ_are_told_also_those_that_one_lacks() -> None:
    a, b = RunJob(fields=JOB), RunJob(fields={**JOB, "name": "b", "compute": {"readers": 12, "batch": 8}})
    assert differences(a.flat(), b.flat()) == (
        ("name", "a", "b"),
        ("compute.readers", "4", "12"),
        ("compute.gpus", "auto", "–"),
    )


def test_lists_of_sections_are_told_by_number_and_plain_ones_in_a_line() -> None:
    flat = RunJob(fields=JOB).flat()
    assert flat["prompts[0].expression"] == "the buildings"
    assert flat["imagery.bands"] == "red, green"


def test_settings_that_differ_far_behind_are_told_and_no_longer_than_people_read() -> None:
    ((key, a, b),) = differences({"area.wkt": "x" * 10**6}, {"area.wkt": "x" * 10**6 + "y"})
    assert key == "area.wkt"
    assert len(a) < 300
    assert a != b


def test_time_between_sittings_is_not_worked() -> None:
    at = np.array([np.nan, 0.0, 100.0, 100.0 + 10 * LONGEST_GAP_S, 150.0 + 10 * LONGEST_GAP_S])
    assert worked_seconds(at) == 150.0
    assert worked_seconds(at[:2]) is None


def test_a_job_file_says_what_advice_depends_on() -> None:
    job = RunJob.of(yaml.safe_dump(JOB))
    assert job.prompts == (("building", "the buildings"),)
    assert (job.model, job.name, job.usd_per_gpu_hour, job.budget_usd) == ("remotesam", "a", 2.0, None)
    said = job.settings
    assert (said.readers, said.gpus, said.batch, said.engine, said.commit_shards) == (4, "auto", 8, "icechunk", 7)


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{", "prompts: 5\ncompute: [1]\nmodel: null", "a: &a [*a]", "compute: {readers: many}"]
)
def test_a_file_that_is_no_job_tells_nothing_and_breaks_nothing(text: str) -> None:
    job = RunJob.of(text)
    assert job.prompts == ()
    assert job.model == ""
    assert job.settings.readers == "auto"
    job.flat()


def test_a_setting_that_only_the_second_has_is_told_unless_it_has_no_value() -> None:
    assert differences({}, {"compute.readers": "4", "compute.budget_usd": "–"}) == (("compute.readers", "–", "4"),)
