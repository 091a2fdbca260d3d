"""How long an export takes, verification included, and against that of convnext.

Run: python -m benchmarks.export [SCALE ...]. Every export is a command of its own, as a user
types it, imports and all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

STMS = ("convnext", "halo", "pvt", "pvt_v2", "swin", "dcn")


def export_s(stm: str, scale: str) -> float:
    """Wall time of `stmdeploy export`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stmdeploy", "export", "--stm", stm, "--scale", scale]
        start = time.perf_counter()
        subprocess.run([*command, "--out", folder], check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


def main() -> None:
    """Prints one line per STM and scale."""
    print(f"{'stm':10}{'scale':8}{'export s':>10}{'of convnext':>13}")
    for scale in sys.argv[1:] or ["tiny"]:
        times = {stm: export_s(stm, scale) for stm in STMS}
        for stm, seconds in times.items():
            print(
                f"{stm:10}{scale:8}{seconds:10.1f}{seconds / times['convnext']:13.2f}", flush=True
            )


if __name__ == "__main__":
    main()
