"""A job file of this machine → the text of a job that means the same elsewhere."""

from __future__ import annotations

from pathlib import Path

import yaml

from catalogs.hrefs import is_remote, local_path
from jobs.job import absolute, rooted
from jobs.job_file import document_in
from jobs.spec import JobSpec, read_spec, spec_from
from jobs.submitted import local_places
from mapper.errors import SpecError


def sent(job: Path | str, *, here: bool) -> str:
    """The text to send.

    Args:
        job: a job file, whose relative paths begin in its folder; or the text of one, whose paths are absolute.
        here: whether the server finds our files under their paths. Where not, an outline in a file goes along.

    Raises:
        SpecError: it is no job, or names files that the server cannot see.
    """
    if isinstance(job, str):
        if here:
            return job
        spec = spec_from(document_in(job))
    else:
        folder = job.resolve().parent
        spec = rooted(read_spec(job), folder)
        if spec.area.geojson is not None:
            place = absolute(spec.area.geojson, folder)
            spec = spec.model_copy(update={"area": spec.area.model_copy(update={"geojson": place})})
    if not here:
        spec = _with_outline(spec)
        _check_reachable(spec)
    document = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _with_outline(spec: JobSpec) -> JobSpec:
    """The job with its area in it, where that is a file of this machine."""
    if spec.area.geojson is None or is_remote(spec.area.geojson):
        return spec
    import shapely

    from jobs.areas import geometry_of

    outline = geometry_of(spec.area, folder=local_path(spec.area.geojson).parent)
    area = type(spec.area)(wkt=shapely.to_wkt(outline, rounding_precision=-1))
    return spec.model_copy(update={"area": area})


def _check_reachable(spec: JobSpec) -> None:
    for key, place in local_places(spec).items():
        if not is_remote(place):
            raise SpecError(
                f"{key} is a file of this machine, and the server is elsewhere: {place[:200]}",
                fix="put it where both can reach it, as https:// or s3://; or, if the server has it under the same "
                "path, say --same-files",
            )
