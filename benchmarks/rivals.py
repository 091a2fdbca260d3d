"""What a user would do instead, by turns with what stmdeploy does.

Run: python -m benchmarks.rivals [--stm halo,pvt,swin,convnext,dcn_v3] [--scale micro] [--batch 1]
[--model timm:NAME] [--waves 6] [--folder FOLDER] [--save]

Ours is the usual configuration of `profile` (lowered, ONNX Runtime, float32) and, where OpenVINO is
installed, the lowered form there. The others are the model as it is: through torch.onnx in ONNX
Runtime, the same file in OpenVINO, PyTorch eager, and torch.compile. All are exact, all have the
same threads. Ratios are over the model through torch.onnx; less is faster. Of a timm model, which
has no lowered form, it tells what exporting it comes to.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks.evidence import saving, table
from stmdeploy.hardware.machine import available_threads
from stmdeploy.measure.racing import Race
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.spec.export import REFERENCE
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.tuning import TuneSpec
from stmdeploy.tuning.candidates import Candidate, artifacts, reference, usual
from stmdeploy.tuning.tune import Tuning

#: What the table is about.
CODE = ("benchmarks/rivals.py", "stmdeploy/backbones/lowering", "stmdeploy/tuning")
STMS = "halo,pvt,swin,convnext,dcn_v3"


def rivals(spec: TuneSpec) -> Iterator[tuple[str, Candidate]]:
    """What is compared, in words."""
    yield "torch.onnx, ONNX Runtime", reference(spec)
    if usual(spec) != reference(spec):
        yield "ours, ONNX Runtime", usual(spec)
    for one in artifacts(spec):
        runtime = one.run.runtime
        if runtime == "openvino" and find_spec("openvino") and one.form == REFERENCE:
            yield "torch.onnx, OpenVINO", one
        elif runtime == "openvino" and find_spec("openvino"):
            yield f"ours, OpenVINO ({one.form})", one
        elif exporter_of(runtime).target.name == "torch":
            yield {"torch": "PyTorch, eager", "torch-compile": "torch.compile"}[runtime], one


def compare(spec: TuneSpec, waves: int, add: Callable[..., None]) -> None:
    """Adds a row for each."""
    tuning, race = Tuning(spec, Silent()), Race(0.05, usual(spec).name)
    named = {words: candidate.name for words, candidate in rivals(spec)}
    tuning.enter((usual(spec), reference(spec), *(one for _, one in rivals(spec))))
    race.enter(named.values())
    for number in range(1, waves + 1):
        race.add(tuning.play(number))
    for words, name in named.items():
        found = race.ratio(name, reference(spec).name)
        told = f"{found.ratio:.3f} ({found.low:.3f} .. {found.high:.3f})" if found else "failed"
        add(words, spec.model.label, str(spec.runs[0].batch), told)


def main() -> None:
    """Every model at every batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stm", default=STMS)
    parser.add_argument("--scale", default="micro")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--model", default="")
    parser.add_argument("--waves", type=int, default=6)
    parser.add_argument("--folder", type=Path)
    saving(parser)
    options = parser.parse_args()
    names = [f"unified_{stm}_{options.scale}" for stm in filter(None, options.stm.split(","))]
    command = f"python -m benchmarks.rivals --stm {options.stm} --waves {options.waves}"
    remark = f"latency by turns, with 95 % intervals; {available_threads()} threads, float32"
    with (
        table("rivals", command, CODE, ("way", "model", "batch", "ratio"), remark,
              save=options.save) as add,
        tempfile.TemporaryDirectory() as scratch,
    ):  # fmt: skip
        for name in options.model.split(",") if options.model else names:
            for batch in map(int, options.batch.split(",")):
                run = RunSpec("onnxruntime", batch, available_threads())
                runtimes = ("openvino",) * bool(find_spec("openvino")) + ("torch", "torch-compile")
                spec = TuneSpec(
                    ModelSpec(name, num_classes=None if ":" in name else 1000),
                    (run,),
                    options.folder or Path(scratch),
                    runtimes,
                    threads=(available_threads(),),
                )
                compare(spec, options.waves, add)


if __name__ == "__main__":
    main()
