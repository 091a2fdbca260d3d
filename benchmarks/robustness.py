"""What deployment does to invariance, and what the mixers see: the figures of docs/robustness.md.

Run: python -m benchmarks.robustness [--folder FOLDER] [--only digits|fields] [--steps 60]

digits: convnext and swin micro learn scikit-learn's digits at 224 px, are exported in fp32, fp16
and int8, and looked at in all views of the digits that they have not seen; one picture. fields: the
receptive fields of the five mixers at micro, of synthetic weights over the same pictures, for no
package has trained ones. A folder that has the checkpoints and artifacts already is used as it is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from stmdeploy.cli.main import main as stmdeploy
from tests.digits import train, write_digits

SIDE, TRAINED = 224, 1500
LEARNERS = ("convnext", "swin")


def digits(folder: Path, steps: int, images: int) -> None:
    """Trains, exports, and looks."""
    artifacts: list[str] = []
    for stm in LEARNERS:
        weights, made = folder / f"{stm}.pth", folder / stm
        begun = time.perf_counter()
        if not weights.is_file():
            train(folder / "train", weights, stm, "micro", SIDE, steps=steps, batch=16)
            print(f"{stm}: {steps} steps in {time.perf_counter() - begun:.0f} s", flush=True)
        if not made.is_dir():
            model = ["--stm", stm, "--scale", "micro", "--num-classes", "10"]
            words = ["--checkpoint", str(weights), "--calibration", str(folder / "train")]
            call("export", *model, *words, "--precision", "fp32,fp16,int8", "--out", str(made))
        artifacts += sorted(map(str, made.glob("*.onnx")))
    data = ["--data", str(folder / "test"), "--out", str(folder / "store")]
    call("evaluate", *artifacts, *data)
    some = ["--limit", str(images), "--figure", str(folder / "invariance.png")]
    call("invariance", *artifacts, *data, *some)


def fields(folder: Path) -> None:
    """Looks at the receptive fields of all five."""
    words = ["--scale", "micro", "--data", str(folder / "test"), "--images", "8"]
    call("receptive-field", *words, "--out", str(folder / "store"))


def call(*words: str) -> None:
    """Runs a command, and ends where it fails."""
    print(f"$ stmdeploy {' '.join(words)}", flush=True)
    if code := stmdeploy(list(words)):
        raise SystemExit(code)


def main() -> None:
    """Both, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("digits", "fields"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=96, help="digits looked at in all views")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if not (folder / "test").is_dir():
            write_digits(folder / "train", slice(0, TRAINED))
            write_digits(folder / "test", slice(TRAINED, None))
        if options.only != "fields":
            digits(folder, options.steps, options.images)
        if options.only != "digits":
            fields(folder)


if __name__ == "__main__":
    main()
