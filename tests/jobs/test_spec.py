from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import shapely
import yaml
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from jobs.job import Job
from jobs.spec import JobSpec, answer_key, canonical, read_spec, run_id, spec_from
from mapper.errors import SpecError
from mapper.names import plain
from tests.stories.command_line import Resmap
from tests.stories.world import merged

DESIGN = Path(__file__).parents[3] / "shared" / "DESIGN.md"
WKB = shapely.to_wkb(box(12, 55, 12.1, 55.1))

EXAMPLE = """
name: banepa-buildings
area: {bbox: [85.51, 27.62, 85.53, 27.64]}
imagery:
  catalog: https://example.com/stac
  collections: [naip]
  datetime: 2020-01-01/2020-12-31
  filter: "eo:cloud_cover < 20"
  bands: [red, green, blue]
  scale: {from: [0, 3000]}
  time_step: all
  composite: first
grid: {crs: "EPSG:32645", resolution_m: 0.3, shard_px: 2048, chunk_px: 512}
prompts:
  - {name: building, expression: "the buildings", threshold: 0.5}
model: {name: pocket}
windows: {overlap_px: 128, blend: true}
output: {mosaic: "s3://bucket/banepa.zarr", engine: zarr}
compute: {gpus: auto, readers: auto, batch: auto, budget_usd: null}
monitor: {schedule: "0 6 * * *", timezone: UTC, late: 30d}
"""


def example(**changes: Any) -> dict[str, Any]:
    return merged(yaml.safe_load(EXAMPLE), changes)


def faults_of(document: object) -> str:
    with pytest.raises(SpecError) as refused:
        spec_from(document)
    assert refused.value.exit_status == 3
    assert refused.value.fix
    return refused.value.what


def test_the_example_is_a_job() -> None:
    spec = spec_from(example())
    assert canonical(spec)["area"]["bbox"] == [85.51, 27.62, 85.53, 27.64]
    assert canonical(spec)["imagery"]["scale"] == {"from": [0, 3000]}
    assert spec.prompt_values()[0].expression == "the buildings"


def test_the_example_is_the_one_of_the_design() -> None:
    if not DESIGN.is_file():
        pytest.skip("the design lies beside the repository, in ../shared/DESIGN.md, and is not here")
    (text,) = re.findall(r"```yaml\n(.*?)```", DESIGN.read_text(), re.DOTALL)
    assert canonical(spec_from(yaml.safe_load(text))) == canonical(spec_from(example()))


def test_the_json_schema_accepts_the_example_and_refuses_what_the_job_file_refuses(resmap: Resmap) -> None:
    schema = resmap("schema").document
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(example())
    for wrong in (
        example(grid={"shard": 1}), example(imagery={"bands": []}), example(prompts=[]), example(name=None),
        example(imagery={"time_step": "decade"}), example(compute={"gpus": 0}), example(compute={"gpus": {"min": 2}}),
        example(prompts=[{"name": "p", "expression": "x" * 501}]),
    ):  # fmt: skip
        faults_of(wrong)
        assert list(validator.iter_errors(wrong)), wrong


def test_only_name_area_catalog_prompts_and_output_must_be_given() -> None:
    least = {
        "name": "least", "area": {"bbox": [0, 0, 1, 1]}, "imagery": {"catalog": "c.json"},
        "prompts": [{"name": "p", "expression": "the lakes"}], "output": {"mosaic": "m.zarr"},
    }  # fmt: skip
    spec_from(least)
    for key in least:
        assert f"{key} is missing" in faults_of(merged(least, {key: None}))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"area": {}}, "area: give exactly one of bbox, geojson, wkt"),
        ({"area": {"bbox": [0, 0, 1, 1], "wkt": "POINT(0 0)"}}, "area: give exactly one"),
        ({"area": {"bbox": [1, 0, 0, 1]}}, "area: bbox is [west, south, east, north]"),
        ({"area": {"bbox": [0, -91, 1, 1]}}, "area: bbox is"),
        ({"area": {"bbox": [0, 0, 1]}}, "area.bbox"),
        ({"area": {"bbox": [0, 0, 1, float("nan")]}}, "area.bbox"),
        ({"area": {"box": [0, 0, 1, 1]}}, "area.box is not a key (did you mean bbox?)"),
        ({"imagery": {"band": ["red"]}}, "imagery.band is not a key (did you mean bands?)"),
        ({"imagery": {"scale": {"from": [3000, 0]}}}, "imagery.scale: from is [low, high]"),
        ({"imagery": {"scale": {"form": [0, 1]}}}, "imagery.scale.form is not a key (did you mean from?)"),
        ({"imagery": {"composite": "newest"}}, "imagery.composite"),
        ({"grid": {"crs": "native"}}, "grid: crs: native takes the imagery's own resolution"),
        ({"grid": {"resolution_m": None}}, "grid: crs: EPSG:32645 needs a resolution_m"),
        ({"grid": {"resolution_m": 0}}, "grid.resolution_m"),
        ({"grid": {"resolution_m": float("inf")}}, "grid.resolution_m"),
        ({"grid": {"shard_px": 1000}}, "grid: shard_px 1000 is not a multiple of chunk_px 512"),
        ({"prompts": [{"name": "p", "expresion": "x"}]}, "prompts.0.expresion is not a key (did you mean expression"),
        ({"prompts": [{"name": "p"}]}, "prompts.0.expression is missing"),
        ({"prompts": [{"name": "p", "expression": "x", "threshold": 0}]}, "prompts.0.threshold"),
        ({"prompts": [{"name": "p", "expression": "x\ny"}]}, "prompts.0: a prompt's expression has control characters"),
        ({"model": {"sha256": "abc"}}, "model.sha256"),
        ({"windows": {"overlap_px": -1}}, "windows.overlap_px"),
        ({"output": {"engine": "tiff"}}, "output.engine"),
        ({"compute": {"gpus": "some"}}, "compute.gpus: is auto, a number of GPUs, or {min: 1, max: 8}, and not 'some'"),
        ({"compute": {"gpus": 1.5}}, "compute.gpus: input should be a valid integer"),
        ({"compute": {"gpus": {"min": 3, "max": 2}}}, "compute.gpus: min 3 is more than max 2"),
        ({"compute": {"gpus": {"min": 1}}}, "compute.gpus.max is missing"),
        ({"compute": {"gpus": {"mn": 1, "max": 2}}}, "compute.gpus.mn is not a key (did you mean min?)"),
        ({"compute": {"workers_per_gpu": 0}}, "compute.workers_per_gpu"),
        ({"compute": {"gpu_type": "A 100"}}, "compute.gpu_type"),
        ({"compute": {"labels": {"a b": "x"}}}, "compute.labels: 'a b' is no label of a Ray node"),
        ({"compute": {"labels": {"zone": "in()"}}}, "compute.labels: zone: 'in()' is none of value, !value, in(a, b)"),
        ({"compute": {"resources": {"GPU": 1}}}, "compute.resources: no custom resource is named GPU: gpus says"),
        ({"compute": {"resources": {"licence": 1.5}}}, "compute.resources: 1.5 is neither a part of one nor"),
        ({"compute": {"cpus_per_worker": 1.5}}, "compute.cpus_per_worker: 1.5 is neither a part of one"),
        ({"compute": {"budget_usd": -1}}, "compute.budget_usd"),
        ({"monitor": {"at": "noon"}}, "monitor.at is not a key"),
        ({"colour": "red"}, "colour is not a key"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(changes: dict[str, Any], place: str) -> None:
    assert place in faults_of(example(**changes))


@pytest.mark.parametrize("document", [None, [], "name: x", 3, {}])
def test_what_is_no_mapping_or_empty_is_refused(document: object) -> None:
    faults_of(document)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["name", "area", "bbox", "imagery", "prompts", "x"]), inner,
                                      max_size=4), max_leaves=12))  # fmt: skip
def test_no_document_whatever_does_more_than_be_refused(document: object) -> None:
    faults_of(document)


def same_job(one: JobSpec, other: JobSpec) -> bool:
    return run_id(one, area_wkb=WKB) == run_id(other, area_wkb=WKB)


def test_the_same_job_has_the_same_run_however_it_is_written() -> None:
    written = spec_from(yaml.safe_load(json.dumps(example())))
    shuffled = spec_from(dict(reversed(example().items())))
    spelt_out = spec_from(canonical(spec_from(example())))
    assert same_job(spec_from(example()), written)
    assert same_job(spec_from(example()), shuffled)
    assert same_job(spec_from(example()), spelt_out)


@pytest.mark.parametrize(
    "changes",
    [
        {"imagery": {"catalog": "https://example.com/other"}}, {"imagery": {"collections": ["landsat"]}},
        {"imagery": {"datetime": "2021"}}, {"imagery": {"filter": None}}, {"imagery": {"bands": ["nir", "red"]}},
        {"imagery": {"scale": {"from": [0, 4000]}}}, {"imagery": {"time_step": "year"}},
        {"imagery": {"composite": "median"}}, {"grid": {"crs": "EPSG:32644"}}, {"grid": {"resolution_m": 0.6}},
        {"grid": {"shard_px": 1024}}, {"grid": {"chunk_px": 256}}, {"model": {"name": "other"}},
        {"model": {"precision": "bf16"}}, {"windows": {"overlap_px": 64}}, {"windows": {"blend": False}},
        {"prompts": [{"name": "building", "expression": "the houses"}]},
        {"prompts": [{"name": "building", "expression": "the buildings", "threshold": 0.4}]},
        {"output": {"mosaic": "s3://bucket/other.zarr"}},
    ],
)  # fmt: skip
def test_a_job_that_would_map_other_pixels_is_another_run(changes: dict[str, Any]) -> None:
    assert not same_job(spec_from(example()), spec_from(example(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"compute": {"gpus": 8}}, {"compute": {"batch": 4}}, {"compute": {"budget_usd": 5.0}}, {"monitor": None},
        {"compute": {"gpus": {"min": 1, "max": 8}, "workers_per_gpu": 2, "gpu_type": "L4", "cpus_per_worker": 0.5}},
        {"compute": {"labels": {"ray.io/market-type": "!spot"}, "resources": {"licence": 1}}},
    ],
)  # fmt: skip
def test_how_a_job_is_run_makes_it_no_other_run(changes: dict[str, Any]) -> None:
    assert same_job(spec_from(example()), spec_from(example(**changes)))


def test_a_label_that_yaml_reads_as_yes_or_a_number_is_a_text() -> None:
    labels = yaml.safe_load("{spot: true, rack: 7, zone: 'in(a, b)'}")
    assert spec_from(example(compute={"labels": labels})).compute.labels == {
        "spot": "true",
        "rack": "7",
        "zone": "in(a, b)",
    }


def test_how_many_gpus_there_will_be_is_reckoned_with_as_far_as_it_is_said() -> None:
    said = [spec_from(example(compute={"gpus": gpus})).compute for gpus in ("auto", 4, {"min": 2, "max": 8})]
    assert [compute.expected_gpus for compute in said] == [1, 4, 8]
    assert [compute.gpu_bounds for compute in said] == [(1, None), (4, 4), (2, 8)]


def test_another_area_is_another_run() -> None:
    spec = spec_from(example())
    assert run_id(spec, area_wkb=WKB) != run_id(spec, area_wkb=shapely.to_wkb(box(12, 55, 12.1, 55.2)))


def test_a_further_sentence_is_another_run_with_the_same_answers() -> None:
    more = spec_from(example(prompts=[*example()["prompts"], {"name": "lake", "expression": "the lakes"}]))
    assert not same_job(spec_from(example()), more)
    assert answer_key(spec_from(example()), area_wkb=WKB) == answer_key(more, area_wkb=WKB)


def test_a_job_file_means_the_same_from_whichever_folder_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(example(imagery={"catalog": "world/catalog.json"}, output={"mosaic": "map.zarr"})))
    here = Job.from_file(path)
    monkeypatch.chdir(tmp_path)
    assert Job.from_file("job.yaml") == here
    assert here.spec.output.mosaic == str(tmp_path / "map.zarr")
    assert here.spec.imagery.catalog == str(tmp_path / "world" / "catalog.json")


@given(st.text(max_size=100))
def test_a_runs_name_is_safe_in_a_path(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", plain(name) or "job")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"a: [", "not YAML at line"), (b"\xff\xfe", "not UTF-8"), (b"!!python/object/apply:os.system [ls]", "not YAML")],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says) as refused:
        read_spec(path)
    assert refused.value.where["file"] == path


def test_a_file_that_would_blow_up_in_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"#" * (5 * 2**20))
    with pytest.raises(SpecError, match="more than 4 MB"):
        read_spec(path)


def test_a_yaml_bomb_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path.write_text("\n".join([*lines, "name: *a11"]))
    with pytest.raises(SpecError):
        read_spec(path)
