"""How the store keeps a process: its document, and beside it its series of samples, packed."""

from __future__ import annotations

import zlib
from array import array
from itertools import islice

from stmdeploy.errors import StmdeployError
from stmdeploy.results.faults import MEASURE_AGAIN, parsed
from stmdeploy.schema.measurement import ProcessRun

#: Append new ones at the end: older stores hold fewer.
_SERIES = ("samples_ms", "copies_ms", "warmup_ms", "device_ms")
#: Ten minutes of inferences of 0.1 ms, and an inference of a year: more is no measurement.
_MOST_SAMPLES, _LONGEST_MS = 6_000_000, 3.2e10


def pack(process: ProcessRun) -> tuple[str, bytes]:
    """The JSON of a process without its series, and the series as compressed doubles.

    Each series follows its length.
    """
    numbers = array("d")
    for name in _SERIES:
        series = getattr(process, name)
        numbers.append(len(series))
        numbers.extend(series)
    bare = process.model_copy(update=dict.fromkeys(_SERIES, ()))
    return bare.model_dump_json(), zlib.compress(numbers.tobytes())


def unpack(document: str, packed: bytes, where: str) -> ProcessRun:
    """Reads what `pack` wrote; errors name it by `where`.

    Raises:
        StmdeployError: either part is damaged.
    """
    process = parsed(ProcessRun, document, where)
    try:
        series = _series(packed)
    except (ValueError, OverflowError, zlib.error) as error:
        raise StmdeployError(f"{where} has damaged samples: {error}", MEASURE_AGAIN) from error
    return process.model_copy(update=series)


def _series(packed: bytes) -> dict[str, tuple[float, ...]]:
    """The series by their names.

    Raises:
        ValueError, OverflowError, zlib.error: this was not written by `pack`.
    """
    content = zlib.decompressobj().decompress(packed, _MOST_SAMPLES * 8 + 1)
    if len(content) > _MOST_SAMPLES * 8:
        raise ValueError(f"there are more than {_MOST_SAMPLES}")
    numbers, series = iter(array("d", content)), {}
    for name, length in zip(_SERIES, numbers, strict=False):
        values = tuple(islice(numbers, int(length)))
        if length != len(values) or not all(0 < value < _LONGEST_MS for value in values):
            raise ValueError("they are cut short, or not durations")
        series[name] = values
    if not series.get("samples_ms"):
        raise ValueError("there are none")
    return series
