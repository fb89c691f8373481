"""The table of docs/reliability.md, from ``results/*.json`` and test names: ``python -m benchmarks.reliability``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table reliability -->\n", "<!-- end -->"
MISSING = "not recorded yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One promise, and how anybody can see that it is kept."""

    promise: str
    tests: tuple[str, ...]
    """As pytest names them, without what they are parametrised with."""

    result: str = ""
    """Name of the file of ``results`` that holds the long run's figures; empty where the suite's short one is all."""

    says: Callable[[dict[str, Any]], str] = lambda figures: ""
    """What of those figures goes into the table."""

    command: str = "make test"


def _kills(figures: dict[str, Any]) -> str:
    return f"{figures['kills']} kills, {figures['differing_maps']} maps that differ"


def _hundred(figures: dict[str, Any]) -> str:
    again = figures["put_again_per_kill"]
    return (
        f"{_kills(figures)}; {figures['tiles']} tiles; put again a kill: {again['mean']:g} in the mean, "
        f"{again['most']} at most"
    )


def _asleep(figures: dict[str, Any]) -> str:
    return f"taken over after {figures['taken_over_after_s']:.0f} s, {figures['differing_maps']} maps that differ"


def _ended(figures: dict[str, Any]) -> str:
    after = figures["ended_s_after"]
    seconds = ", ".join(f"{s:.0f}" for s in after.values()) if isinstance(after, dict) else f"{after:.0f}"
    return f"{_kills(figures)}; the run ended {seconds} s later"


def _simulated(figures: dict[str, Any]) -> str:
    return (
        f"{figures['runs']:,} runs, {len(figures['broken'])} broken; {sum(figures['faults'].values()):,} faults of "
        f"{len(figures['faults'])} kinds, {figures['sittings']:,} drivers, "
        f"{figures['hours_on_their_clocks']:,.0f} h on their clocks"
    )


def _fuzzed(figures: dict[str, Any]) -> str:
    parsers = figures["parsers"].values()
    return (
        f"{sum(told['runs'] for told in parsers):,} inputs for {len(parsers)} parsers, "
        f"{sum(len(told['faults']) for told in parsers)} faults"
    )


def _slower(figures: dict[str, Any]) -> str:
    told = f"{figures['longer_at_5_percent']:.2f} times as long with 5 % of requests failing"
    whole = figures["all_done"] and figures["each_tile_once"] and figures["same_pixels"]
    return f"{told}; 20 % and {figures['outage_s']:g} s away: {'the same map' if whole else 'NOT the same map'}"


def _fleet(figures: dict[str, Any]) -> str:
    stories = [told for told in figures.values() if isinstance(told, dict) and "differing_maps" in told]
    differing = sum(told["differing_maps"] for told in stories)
    longest = max(told.get("ended_s_after", 0.0) for told in stories)
    return f"{len(stories)} stories, {differing} maps that differ; the run ended {longest:.0f} s later at the latest"


KILLS, SECRETS, LONG = "tests/chaos/test_kills.py", "tests/chaos/test_secrets.py", "tests/chaos/test_long.py"
RUNS = "tests/faults/test_runs.py"
WHATEVER = f"{LONG}::test_whatever_is_killed_the_map_is_that_of_an_undisturbed_run"

PROMISES = (
    Kept(
        promise="Whatever fails and whoever dies, every tile ends in one state, and store and ledger agree",
        tests=(
            "tests/simulation/test_simulation.py::test_whatever_goes_wrong_the_mosaic_is_the_undisturbed_one_and_the_ledger_says_so",
        ),
        result="simulation",
        says=_simulated,
        command="make chaos-sim",
    ),
    Kept(
        promise="A driver may be killed at any point, and the next one finishes the same map, byte for byte",
        tests=(f"{KILLS}::test_drivers_that_died_at_every_point_leave_the_map_of_one_that_lived", WHATEVER),
        result="chaos_kills_at_every_point",
        says=_kills,
        command="python -m tests.chaos kills_at_every_point",
    ),
    Kept(
        promise="A hundred drivers in a row may be killed",
        tests=(f"{KILLS}::test_drivers_that_died_one_after_the_other_leave_the_map_of_one_that_lived", WHATEVER),
        result="chaos_a_hundred_kills",
        says=_hundred,
        command="python -m tests.chaos a_hundred_kills",
    ),
    Kept(
        promise="A failure of the store at any point costs another try and nothing else",
        tests=(f"{KILLS}::test_a_store_that_fails_once_at_every_point_costs_nothing_but_another_try",),
    ),
    Kept(
        promise="A driver that sleeps past its lease and wakes changes nothing, and says so",
        tests=(
            f"{KILLS}::test_a_driver_that_slept_through_its_lease_ends_with_an_error_and_doubles_nothing",
            WHATEVER,
        ),
        result="chaos_a_driver_asleep",
        says=_asleep,
        command="python -m tests.chaos a_driver_asleep",
    ),
    Kept(
        promise="Ctrl-C finishes what is in hand; a second one leaves at once; either way the next run goes on",
        tests=(
            "tests/stories/test_resume.py::test_ctrl_c_drains_saves_and_exits_130",
            f"{KILLS}::test_ctrl_c_twice_leaves_at_once_and_the_next_run_goes_on",
        ),
    ),
    Kept(
        promise="A GPU worker that dies is replaced, wherever it dies",
        tests=(WHATEVER,),
        result="chaos_workers_killed",
        says=_kills,
        command="python -m tests.chaos workers_killed",
    ),
    Kept(
        promise="SIGKILL of a GPU actor, a reader, the driver: the run goes on, or the next one does",
        tests=(
            "tests/stories/test_resume.py::test_a_killed_and_resumed_run_leaves_the_bytes_of_an_undisturbed_one",
            WHATEVER,
        ),
        result="chaos_processes_killed",
        says=_kills,
        command="python -m tests.chaos processes_killed",
    ),
    Kept(
        promise="A GPU actor that hangs holds nobody up; one that wakes late is not listened to",
        tests=(WHATEVER,),
        result="chaos_a_worker_asleep",
        says=_ended,
        command="python -m tests.chaos a_worker_asleep",
    ),
    Kept(
        promise="A machine that is lost takes its tiles with it and no more",
        tests=(WHATEVER,),
        result="chaos_a_node_lost",
        says=_ended,
        command="python -m tests.chaos a_node_lost",
    ),
    Kept(
        promise="On several hosts, links that are cut or long, and nodes that come, go or are told to, change nothing",
        tests=("tests/fleet/test_fleet.py::test_whatever_becomes_of_a_fleet_its_map_is_that_of_one_process",),
        result="fleet",
        says=_fleet,
        command="make cluster-record",
    ),
    Kept(
        promise="Two drivers of one job are one run; one of another job is refused",
        tests=(
            "tests/faults/test_two_drivers.py::test_a_second_driver_follows_the_first_and_ends_as_it_does",
            "tests/faults/test_two_drivers.py::test_a_second_driver_takes_over_when_the_first_dies",
            "tests/faults/test_two_drivers.py::test_a_driver_of_another_job_is_refused",
        ),
    ),
    Kept(
        promise="With a fifth of all requests failing and an outage, a bucket holds the same map, each tile once",
        tests=(f"{RUNS}::test_a_run_with_a_fifth_of_all_requests_failing_and_an_outage_leaves_the_same_map",),
    ),
    Kept(
        promise="Against a server that checks signatures, too; a twentieth of requests failing costs little time",
        tests=(f"{RUNS}::test_a_run_against_ceph_outlasts_errors_and_an_outage_of_two_minutes",),
        result="faults-radosgw-zarr",
        says=_slower,
        command="python -m benchmarks.bench_faults --server radosgw",
    ),
    Kept(
        promise="A put whose answer is lost is neither lost nor doubled",
        tests=(f"{RUNS}::test_puts_whose_answers_are_lost_are_neither_lost_nor_doubled",),
    ),
    Kept(
        promise="A disk that is full is said, and the run goes on once there is room",
        tests=(
            "tests/faults/test_no_room.py::test_a_run_on_a_disk_that_fills_up_says_so_and_goes_on_once_there_is_room",
        ),
    ),
    Kept(
        promise="`resmap verify --full` finds every flipped byte, what is missing and what is too much",
        tests=(
            "tests/faults/test_verify_bytes.py::test_every_single_byte_of_a_shard_counts",
            "tests/faults/test_verify_bytes.py::test_a_missing_shard_is_named",
            "tests/faults/test_verify_bytes.py::test_a_shard_that_no_ledger_speaks_of_is_named",
        ),
    ),
    Kept(
        promise="`resmap run --repair` makes anew what is damaged and nothing else",
        tests=(
            "tests/faults/test_repair.py::test_what_was_damaged_is_as_an_undisturbed_run_leaves_it",
            "tests/faults/test_repair.py::test_no_more_is_done_again_than_was_damaged",
        ),
    ),
    Kept(
        promise="A hostile raster gives its own pixels or an error: no crash, no other file, no more memory",
        tests=(
            "tests/hostile/test_rasters.py::test_every_file_gives_its_pixels_or_an_error_of_ours",
            "tests/hostile/test_rasters.py::test_no_file_makes_us_hold_more_than_the_limit",
            "tests/hostile/test_rasters.py::test_no_file_makes_us_open_another",
        ),
    ),
    Kept(
        promise="Input that no one thought of ends in a value or in a sentence, whatever parser it is given to",
        tests=(
            "tests/hostile/test_fuzz_documents.py::test_input_that_no_one_thought_of_is_taken_or_refused",
            "tests/hostile/test_rasters_fuzz.py::test_spoiled_files_give_pixels_or_an_error_of_ours",
        ),
        result="fuzz",
        says=_fuzzed,
        command="make fuzz",
    ),
    Kept(
        promise="A catalog leads to no address that it may not name, not by redirects either",
        tests=(
            "tests/hostile/test_hrefs.py::test_no_spelling_of_an_address_inside_passes",
            "tests/hostile/test_hrefs.py::test_no_redirect_leads_inside",
        ),
    ),
    Kept(
        promise="Nothing that opens a store or a catalog stands in a file, a log or an error",
        tests=(
            f"{SECRETS}::test_no_file_that_a_run_leaves_has_a_secret",
            f"{SECRETS}::test_no_command_says_a_secret",
        ),
    ),
    Kept(
        promise="Every point at which a process can be made to die is in the code, and is reached",
        tests=(
            "tests/mapper/test_failpoints.py::test_every_point_lies_in_the_one_file_that_the_table_names",
            f"{KILLS}::test_drivers_that_died_at_every_point_leave_the_map_of_one_that_lived",
        ),
    ),
)


def main() -> None:
    """Write the table into the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_table(text: str) -> str:
    """The page with its table as the results say now."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    lines = "".join(f"{line}\n" for line in table())
    return f"{before}{begin}{lines}{end}{after}"


def table() -> list[str]:
    """Its lines."""
    lines = ["| promise | test | figure | command |", "|---|---|---|---|"]
    for kept in PROMISES:
        tests = "<br>".join(f"[{name.partition('::')[2]}](../{name.partition('::')[0]})" for name in kept.tests)
        lines.append(f"| {kept.promise} | {tests} | {_figure(kept)} | `{kept.command}` |")
    return lines


def _figure(kept: Kept) -> str:
    if not kept.result:
        return "passes in the suite"
    path = RESULTS / f"{kept.result}.json"
    if not path.exists():
        return MISSING
    figures = json.loads(path.read_text(encoding="utf-8"))
    return f"{kept.says(figures)} *(commit {figures['made_with']['commit'][:10]})*"


if __name__ == "__main__":
    main()
