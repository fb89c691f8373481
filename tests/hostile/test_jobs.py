"""Whatever stands in a job file, it is a job or a sentence says why not; nothing is run, filled or waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalogs import conditions
from catalogs.conditions import Filter
from jobs.spec import JobSpec, read_spec, run_id, spec_from
from mapper.errors import MapperError, SpecError
from mapper.names import plain, slug
from mapper.prompts import Prompt
from tests.hostile.catalogs import STRANGE_IDS, WRONG, places, replaced
from tests.hostile.jobs import PROMPTS, good_job, job_texts
from tests.hostile.outcome import outcome


def job_in(folder: Path, content: bytes) -> Path:
    path = folder / "job.yaml"
    path.write_bytes(content)
    return path


def test_the_good_job_is_good(tmp_path: Path) -> None:
    written = yaml.safe_dump(good_job())
    assert read_spec(job_in(tmp_path, written.encode())) == spec_from(good_job())


@pytest.mark.parametrize("name", job_texts())
def test_a_file_that_is_no_job_is_refused(name: str, tmp_path: Path) -> None:
    error = outcome(partial(read_spec, job_in(tmp_path, job_texts()[name])))
    assert isinstance(error, SpecError)
    assert error.fix
    assert len(str(error)) < 4000


def test_any_value_of_a_wrong_kind_is_named_with_its_place() -> None:
    good, cases, taken = good_job(), 0, 0
    for place in places(good):
        for name, value in WRONG.items():
            cases += 1
            answer = outcome(partial(spec_from, replaced(good, place, value)))
            if isinstance(answer, JobSpec):
                taken += 1
                json.dumps(run_id(answer, area_wkb=b""))
                continue
            key = str(next(part for part in place))
            assert key in answer.what or place[0] in ("area", "output"), (name, place, answer.what)
    assert cases > 600
    assert taken < cases / 3


def test_what_stays_open_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (
        tmp_path,
        tmp_path / "pipe",
        tmp_path / "gone",
        Path("/dev/zero"),
        Path("a\x00b"),
        tmp_path / ("a" * 300),
    ):
        assert isinstance(outcome(partial(read_spec, path)), SpecError)


def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    here = tmp_path / "made"
    job_in(tmp_path, f"name: !!python/object/apply:os.mkdir ['{here}']".encode())
    assert isinstance(outcome(partial(read_spec, tmp_path / "job.yaml")), SpecError)
    assert not here.exists()


def test_a_date_is_the_text_that_was_written(tmp_path: Path) -> None:
    for written, meant in (("2020-06-01", "2020-06-01"), ("2020", "2020"), ("2020-06-01T00:00:00Z",) * 2):
        job = yaml.safe_dump(good_job()).replace("datetime: '2020'", f"datetime: {written}")
        assert read_spec(job_in(tmp_path, job.encode())).imagery.datetime == meant


def test_aliases_that_save_writing_are_welcome(tmp_path: Path) -> None:
    job = good_job()
    shared = {"name": "roof", "expression": "the roofs", "threshold": 0.4}
    text = yaml.safe_dump({**job, "prompts": []}).replace("prompts: []", "")
    text += f"prompts: [&p {json.dumps(shared)}, {{<<: *p, name: other}}]"
    assert [prompt.threshold for prompt in read_spec(job_in(tmp_path, text.encode())).prompts] == [0.4, 0.4]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_sentence_is_taken_as_it_is_or_refused(name: str) -> None:
    text, is_one = PROMPTS[name]
    answer = outcome(lambda: Prompt(name="p", expression=text))
    assert isinstance(answer, SpecError) is not is_one
    job = outcome(partial(spec_from, {**good_job(), "prompts": [{"name": "p", "expression": text}]}))
    assert isinstance(job, SpecError) is not is_one
    if is_one:
        assert job.prompt_values()[0].expression == text


@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("roof", " roof"), ("red roof", "red  roof"), ("Å", "\u212b")],
    ids=ascii,
)
def test_two_names_that_look_the_same_are_one_name(one: str, other: str) -> None:
    prompts = [{"name": name, "expression": "x"} for name in (one, other)]
    error = outcome(partial(spec_from, {**good_job(), "prompts": prompts}))
    assert isinstance(error, SpecError)
    assert "unique" in error.what


@pytest.mark.parametrize(("one", "other"), [("Roof", "roof"), ("a b", "a-b"), ("屋", "顶"), ("Häuser", "H user")])
def test_names_that_become_the_same_in_plain_letters_keep_files_of_their_own(one: str, other: str) -> None:
    assert plain(one) == plain(other)
    assert slug(one) != slug(other)


@pytest.mark.parametrize("name", STRANGE_IDS, ids=ascii)
def test_no_name_leaves_its_folder(name: str, tmp_path: Path) -> None:
    for made in (slug(name), plain(name)):
        assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(made) <= 51
        assert (tmp_path / f"{made or 'x'}.tif").resolve().parent == tmp_path.resolve()
    assert not slug(name).startswith("-")


@pytest.mark.parametrize("name", [name for name in STRANGE_IDS if 0 < len(name) <= 100], ids=ascii)
def test_a_run_is_named_in_plain_letters_whatever_its_job_is_called(name: str) -> None:
    answer = outcome(partial(spec_from, {**good_job(), "name": name}))
    if isinstance(answer, MapperError):
        assert not name.isprintable() or not name.strip()
    else:
        assert set(run_id(answer, area_wkb=b"")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("text", ["aliases of aliases"])
def test_the_command_says_so_in_a_sentence_and_ends_with_3(text: str, tmp_path: Path) -> None:
    path = job_in(tmp_path, job_texts()[text])
    program = Path(sys.executable).with_name("resmap")
    said = subprocess.run([program, "plan", path], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert said.returncode == 3, said.stderr
    assert "Traceback" not in said.stderr
    assert said.stderr.startswith("error: the job file")
    assert "do:" in said.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["job.yaml"]


def test_a_wrong_answer_of_any_kind_names_no_more_than_people_read() -> None:
    many: dict[str, Any] = {f"key-{n}": n for n in range(5000)}
    error = outcome(partial(spec_from, {**good_job(), **many}))
    assert isinstance(error, SpecError)
    assert "more faults" in error.what


@pytest.mark.parametrize(
    "text",
    ["(" * 9000, "(" * 3000 + "a = 1" + ")" * 3000, "not " * 2000 + "a = 1", "a = " + "-" * 5000 + "1", "a" * 20_000,
     "", "\x00", "a = 1; DROP TABLE runs", "'" * 99, "1 = 1 OR", "é < 1 AND", "a = b = "],
    ids=lambda text: ascii(text)[:30],
)  # fmt: skip
def test_a_filter_that_is_none_ends_no_process(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_CHECKED_S", 1.0)  # ten seconds are too long for a test
    assert isinstance(outcome(partial(Filter.parse, text)), SpecError)


def test_a_filter_that_takes_for_ever_to_check_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_CHECKED_S", 1.0)  # ten seconds are too long for a test
    error = outcome(partial(Filter.parse, "a" + " = a" * 12))
    assert isinstance(error, SpecError)
    assert "too deep" in error.what


def test_a_filter_of_many_brackets_is_taken_where_they_close() -> None:
    text = " OR ".join(f"((a = {n}) AND (b = {n}))" for n in range(6))
    made = Filter.parse(text)
    doc = {"properties": {"a": 3, "b": 3}}
    assert made.holds(doc)
    assert not made.holds({"properties": {"a": 3, "b": 4}})
