"""The day: where the sun stands, and what the season has made of the plants and the crops."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

import numpy as np

from catalogs.synthetic_cover import Band
from catalogs.synthetic_noise import Float, key_of, uniforms

CROPS: tuple[tuple[tuple[int, int, int], ...], ...] = (
    # winter wheat: green over winter, gold in July, stubble, ploughed
    ((112, 112, 74), (106, 112, 70), (96, 120, 64), (82, 124, 56), (74, 118, 52), (110, 126, 62),
     (186, 164, 98), (186, 164, 112), (150, 124, 92), (120, 96, 74), (114, 102, 72), (112, 108, 72)),
    # rape: yellow in May
    ((100, 112, 70), (98, 112, 68), (92, 118, 62), (118, 136, 56), (206, 190, 50), (128, 140, 66),
     (140, 128, 80), (156, 138, 100), (126, 102, 78), (104, 112, 66), (98, 116, 66), (98, 114, 68)),
    # maize: bare in spring, dark green in late summer
    ((126, 106, 84), (124, 104, 82), (126, 104, 80), (134, 108, 82), (136, 112, 82), (108, 116, 66),
     (70, 106, 48), (64, 98, 44), (104, 112, 58), (160, 142, 98), (132, 112, 86), (128, 108, 84)),
    # grass
    ((108, 114, 72), (106, 114, 70), (102, 122, 66), (94, 130, 60), (88, 128, 56), (98, 130, 62),
     (112, 130, 70), (120, 130, 74), (110, 126, 70), (104, 120, 68), (106, 116, 70), (108, 114, 72)),
    # beet and potato
    ((118, 98, 78), (116, 96, 76), (122, 98, 76), (140, 112, 86), (130, 114, 82), (86, 122, 58),
     (70, 116, 50), (68, 112, 48), (78, 112, 54), (110, 100, 70), (116, 96, 76), (116, 96, 76)),
    # spring barley
    ((120, 102, 80), (118, 100, 78), (130, 106, 82), (128, 116, 80), (92, 128, 60), (120, 138, 70),
     (200, 178, 116), (178, 156, 108), (140, 116, 88), (122, 98, 76), (118, 100, 78), (120, 102, 80)),
    # bare and fallow
    ((140, 118, 92), (138, 116, 90), (142, 118, 90), (150, 124, 94), (152, 128, 94), (146, 132, 92),
     (150, 136, 96), (158, 140, 102), (150, 126, 96), (142, 118, 92), (138, 116, 90), (138, 116, 90)),
)  # fmt: skip
"""Red, green, blue 0..255 of each crop by month, first of January first; the year closes on itself."""


@dataclass(frozen=True)
class Light:
    """The day: where the sun stands and what the year has done to the plants."""

    east: float
    """Of the unit vector, on the ground, that points to the sun."""

    north: float
    reach: float
    """Metres of shadow for each metre of height."""

    green: float
    """0 in winter, 1 in early summer."""

    autumn: float
    """1 when the leaves turn."""

    month: float
    """0 at the first of January of the north; half a year off in the south."""

    @classmethod
    def of(cls, band: Band, date: datetime.date) -> Light:
        """The light of a day, the same all over a band."""
        year = date.timetuple().tm_yday / 365.25
        local = (year + (0.5 if band.latitude < 0 else 0)) % 1
        declination = -23.4 * math.cos(2 * math.pi * (year + 10 / 365.25))
        noon = 90 - abs(band.latitude - declination)
        elevation = math.radians(min(68.0, max(24.0, noon - 7)))
        dice = uniforms(key_of(band.seed, 41, date.toordinal()), 2)
        azimuth = math.radians((148 if band.latitude >= declination else 32) + 24 * (dice[0] - 0.5))
        return cls(
            east=math.sin(azimuth),
            north=math.cos(azimuth),
            reach=1 / math.tan(elevation),
            green=max(0.0, min(1.0, 0.5 - 0.62 * math.cos(2 * math.pi * (local - 0.02)))),
            autumn=max(0.0, 1 - abs(local - 0.80) / 0.09),
            month=12 * local,
        )


def crop_colours(month: float) -> Float:
    """``(crop, 3)``: colours of ``CROPS``, months since the first of January, straight between two."""
    table = np.array(CROPS, np.float32)
    now, part = int(month) % 12, np.float32(month % 1)
    return np.asarray(table[:, now] * (1 - part) + table[:, (now + 1) % 12] * part, np.float32)
