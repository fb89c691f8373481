"""Counts what botocore does unseen: a request that a store refused, and that is made again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mapper.patience import ATTEMPTS
from mapper.traffic import TOLD_TO_WAIT, TRAFFIC

_ASKED_AT = "resmap_asked_at"
"""Key in what botocore knows of a request."""


def counting_session(options: Mapping[str, Any]) -> Any:
    """A session for s3fs whose clients count such tries.

    Args:
        options: of an ``AioSession``.
    """
    from aiobotocore.session import AioSession

    session: Any = AioSession(**options)
    session.register("request-created.s3", _asked)
    session.register("needs-retry.s3", _answered)
    return session


def _asked(request: Any, **more: Any) -> None:
    request.context[_ASKED_AT] = time.perf_counter()


def _answered(
    attempts: int, response: Any, caught_exception: Exception | None, request_dict: Mapping[str, Any], **more: Any
) -> None:
    """Count a try that will not be the last: of that one, who asked is told.

    Args:
        attempts: tries so far.
        response: HTTP's, and what it says; None where none came.
        caught_exception: why none came.
        request_dict: what was asked.
        more: what botocore may say beside that.
    """
    status = 0 if response is None else response[0].status_code
    if attempts >= ATTEMPTS or (caught_exception is None and status < 500 and status not in TOLD_TO_WAIT):
        return
    context = request_dict.get("context", {})
    took_s = time.perf_counter() - context.get(_ASKED_AT, time.perf_counter())
    bucket = context.get("s3_redirect", {}).get("bucket") or "?"
    TRAFFIC.add("store", bucket, took_s, failed=True, throttled=status in TOLD_TO_WAIT)
