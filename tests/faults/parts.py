"""Damage to a part of a ledger."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def spoil(part: Path) -> None:
    """Change a byte of its rows. Not any byte: who changes what a page's head says of its least and largest value
    changes no row, and is not found."""
    column = pq.read_metadata(part).row_group(0).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    raw = bytearray(part.read_bytes())
    raw[begin + column.total_compressed_size - 1] ^= 0xFF
    part.write_bytes(raw)
