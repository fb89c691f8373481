"""What a run says is kept within bounds, and read along by places that never move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jobs.run_log import AT_ONCE_BYTES, FIRST, LAST, LogWriter, read_log
from tests.jobs.test_executor import FAKE, SOON_S, job


def read_all(folder: Path, after: int = 0) -> str:
    said, end = "", after
    while True:
        part, now = read_log(folder, after=end)
        said += part
        if now == end:
            return said
        end = now


def write(folder: Path, *said: bytes, segment_bytes: int = 100) -> None:
    log = LogWriter(folder, segment_bytes=segment_bytes)
    for part in said:
        log.write(part)
    log.close()


def test_all_is_kept_while_there_is_room(tmp_path: Path) -> None:
    write(tmp_path, b"one\n" * 50, b"two\n" * 50)
    assert read_all(tmp_path) == "one\n" * 50 + "two\n" * 50


def test_the_beginning_and_the_end_are_kept_and_what_is_missing_is_said(tmp_path: Path) -> None:
    lines = [f"{n:09d}\n".encode() for n in range(1000)]
    write(tmp_path, *lines)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100 * (FIRST + LAST)
    said = read_all(tmp_path)
    head, tail = b"".join(lines[:20]).decode(), b"".join(lines[-20:]).decode()
    assert said.startswith(head)
    assert said.endswith(tail)
    missing = len(b"".join(lines)) - len(head) - len(tail)
    assert said == f"{head}… {missing:,} bytes are left out here …\n{tail}"


def test_whoever_reads_along_goes_on_where_they_were_whatever_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, b"a" * 150)
    said, end = read_log(tmp_path)
    assert (said, end) == ("a" * 100, 100)  # a segment at a time
    write(tmp_path, b"b" * 1000)
    said, end = read_log(tmp_path, after=1100)
    assert (said, end) == ("b" * 50, 1150)
    assert read_log(tmp_path, after=1150) == ("", 1150)
    assert read_log(tmp_path, after=10**9) == ("", 10**9)
    assert read_log(tmp_path / "none") == ("", 0)


def test_another_turn_goes_on_in_the_same_log(tmp_path: Path) -> None:
    write(tmp_path, b"one\n")
    write(tmp_path, b"two\n")
    assert read_all(tmp_path) == "one\ntwo\n"


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 3))
def test_no_letter_is_cut_in_two(text: str, shift: int) -> None:
    import tempfile

    said = "x" * shift + text * (AT_ONCE_BYTES // len(text.encode()) + 2)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), said.encode(), segment_bytes=10**9)
        assert read_all(Path(folder)) == said


def test_bytes_that_are_no_text_are_told_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, b"\xff\xfe\x80 and \xc3")
    assert read_all(tmp_path).count("�") == 4


def test_a_keeper_writes_down_what_a_run_says_and_how_it_ends(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(job(tmp_path / "map.zarr", "speaks 200"))
    words = [sys.executable, "-m", "jobs.keeper", str(tmp_path), "--", *FAKE, "run", str(tmp_path / "job.yaml")]
    subprocess.run(words, input=b"go\n", check=True, timeout=SOON_S)
    first, begun, *lines = read_all(tmp_path).splitlines()
    assert first.startswith("--- 20")
    assert begun == "begun"
    assert [line[:7] for line in lines] == [f"{n:07d}" for n in range(200)]
    assert (tmp_path / "ended").read_text() == "0"


def test_a_command_that_is_not_there_is_told_in_the_log(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "jobs.keeper", str(tmp_path), "--", str(tmp_path / "nothing"), "run"]
    subprocess.run(words, input=b"go\n", check=False, timeout=SOON_S)
    assert "cannot be started: No such file" in read_all(tmp_path)
    assert (tmp_path / "ended").read_text() == "1"
