"""A process is kept as its document and its samples, and comes back whole."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable

import pytest

from stmdeploy import StmdeployError
from stmdeploy.results.samples import pack, unpack
from stmdeploy.schema.measurement import ProcessRun

MakeProcess = Callable[..., ProcessRun]


def test_samples_come_back_as_they_were(make_process: MakeProcess) -> None:
    process = make_process(samples_ms=(0.1, 2.5, 1e9), copies_ms=(), warmup_ms=(3.0,))
    assert unpack(*pack(process), "it") == process


def test_processes_of_older_versions_end_sooner(make_process: MakeProcess) -> None:
    """They have no series of the device's times."""
    process = make_process(device_ms=(4.0, 5.0))
    document, packed = pack(process)
    assert unpack(document, packed, "it") == process
    older = zlib.compress(zlib.decompress(packed)[: -3 * 8])
    assert unpack(document, older, "it") == process.model_copy(update={"device_ms": ()})


def test_samples_are_small(make_process: MakeProcess) -> None:
    process = make_process(samples_ms=tuple(10.0 + (i * 7919 % 100) / 100 for i in range(10_000)))
    assert sum(map(len, pack(process))) < 0.2 * len(process.model_dump_json())


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([2.0, 1.0], "cut short"),
        ([1.5, 1.0], "cut short"),
        ([1.0, -1.0], "not durations"),
        ([1.0, float("nan")], "not durations"),
        ([-1.0], ""),
        ([float("nan")], ""),
        ([float("inf")], ""),
        ([1e300], ""),
        ([0.0, 1.0, 2.0], "there are none"),
        ([], "there are none"),
    ],
)
def test_other_numbers_are_refused(
    make_process: MakeProcess, numbers: list[float], says: str
) -> None:
    document, _ = pack(make_process())
    with pytest.raises(StmdeployError, match=f"it has damaged samples: .*{says}"):
        unpack(document, zlib.compress(array("d", numbers).tobytes()), "it")


def test_what_is_not_packed_is_refused(make_process: MakeProcess) -> None:
    document, packed = pack(make_process())
    for other in (b"not packed", packed[:-8], b""):
        with pytest.raises(StmdeployError, match="it has damaged samples: "):
            unpack(document, other, "it")
