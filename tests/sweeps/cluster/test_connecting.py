"""What is said where no cluster is, without Ray and its half a minute of patience."""

from __future__ import annotations

from typing import Any

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cluster.ray_fleet import LOCAL, _connect


class Ray:
    """Remembers how it was started; where nobody is, it says so in several lines."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def init(self, **given: Any) -> None:
        self.given = given
        if given["address"] != LOCAL:
            raise ConnectionError("Traceback\n  ...\nray client connection timeout\n")


def test_no_cluster_is_said_in_a_line() -> None:
    with pytest.raises(StmdeployError, match=r"ray://none:1: no Ray cluster: ray client c") as said:
        _connect(Ray(), "ray://none:1")
    assert "Traceback" not in str(said.value)


def test_one_of_its_own_has_no_dashboard() -> None:
    ray = Ray()
    _connect(ray, LOCAL)
    assert ray.given["include_dashboard"] is False
