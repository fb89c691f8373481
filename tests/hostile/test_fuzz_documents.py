"""Short runs of the fuzzer, for each parser, and that it sees what it looks for."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from catalogs import conditions
from tests.hostile import fuzz_documents
from tests.hostile.fuzz_documents import PARSERS, fuzz, main, run

RUNS = {"item": 60, "page": 200, "area": 150, "job": 80, "prompt": 500, "cql2": 25, "href": 500}


@pytest.mark.parametrize("what", PARSERS)
def test_input_that_no_one_thought_of_is_taken_or_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_CHECKED_S", 0.5)  # ten seconds are too long for a test
    count, faults = fuzz(what, RUNS[what], seed=0)
    assert faults == {}
    assert count["taken"], "of what is made, some must be good: else only the door is tried"
    assert len(count) > 1, "and some must be bad"


def test_a_seed_makes_the_same_input_again(tmp_path: Path) -> None:
    for what in PARSERS:
        if what != "cql2":
            assert run(what, 7, tmp_path) == run(what, 7, tmp_path)


def test_a_fault_is_told_with_the_seed_that_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(chance: Random, folder: Path) -> object:
        raise KeyError("a fault")

    monkeypatch.setitem(fuzz_documents.PARSERS, "href", breaks)
    assert main(["--what", "href", "--runs", "3", "--seed", "41"]) == 1
    said = capsys.readouterr().out
    assert "FAULT 3" in said
    assert "--what href --runs 1 --seed 41: KeyError: 'a fault'" in said
