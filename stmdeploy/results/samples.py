"""A process as it is kept: its document, and beside it its series, packed."""

from __future__ import annotations

import zlib
from array import array
from itertools import islice

from stmdeploy.errors import StmdeployError
from stmdeploy.results.faults import MEASURE_AGAIN, parsed
from stmdeploy.schema.measurement import ProcessRun

#: New ones come last: older processes end before them.
_SERIES = ("samples_ms", "copies_ms", "warmup_ms", "device_ms")
#: Ten minutes of an inference of 0.1 ms, and a year of one: whatever is beyond is no measurement.
_MOST_SAMPLES, _LONGEST_MS = 6_000_000, 3.2e10


def pack(process: ProcessRun) -> tuple[str, bytes]:
    """The document of a process without its series, and these as compressed doubles, each series
    behind its length."""
    numbers = array("d")
    for name in _SERIES:
        series = getattr(process, name)
        numbers.append(len(series))
        numbers.extend(series)
    bare = process.model_copy(update=dict.fromkeys(_SERIES, ()))
    return bare.model_dump_json(), zlib.compress(numbers.tobytes())


def unpack(document: str, packed: bytes, where: str) -> ProcessRun:
    """What `pack` packed.

    Raises:
        StmdeployError: either part is damaged; `where` says what they are of.
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
        ValueError, OverflowError, zlib.error: `pack` did not pack this.
    """
    content = zlib.decompressobj().decompress(packed, _MOST_SAMPLES * 8 + 1)
    if len(content) > _MOST_SAMPLES * 8:
        raise ValueError(f"they are more than {_MOST_SAMPLES}")
    numbers, series = iter(array("d", content)), {}
    for name, length in zip(_SERIES, numbers, strict=False):
        values = tuple(islice(numbers, int(length)))
        if length != len(values) or not all(0 < value < _LONGEST_MS for value in values):
            raise ValueError("they are cut short, or no durations")
        series[name] = values
    if not series.get("samples_ms"):
        raise ValueError("there are none")
    return series
