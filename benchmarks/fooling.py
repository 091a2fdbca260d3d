"""Candidates that disturb themselves: this interpreter, with something beside it in every process.

- ``spins``: a thread that hashes half of the time, in phases of 50 ms.
- ``crowds``: ONNX Runtime gets four times as many threads as there are processors.
- ``mostly slow``: eight inferences in ten take 40 % longer.
- ``tail``: three inferences in a hundred take twice as long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_SPINS = """
import hashlib, threading, time
def spin():
    block = bytes(2**20)
    while True:
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            hashlib.sha256(block).digest()  # without the interpreter's lock
        time.sleep(0.05)
threading.Thread(target=spin, daemon=True).start()
"""
_PATCH = """
import importlib.abc, importlib.util, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "onnxruntime":
            return None
        sys.meta_path.remove(self)  # whoever asks may ask again before it is imported
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
"""
_CROWDS = """
def change(onnxruntime):
    import os
    plain = onnxruntime.InferenceSession
    class Session(plain):
        def __init__(self, path, sess_options=None, **others):
            sess_options.intra_op_num_threads = 4 * len(os.sched_getaffinity(0))
            super().__init__(path, sess_options, **others)
    onnxruntime.InferenceSession = Session
"""
_SLOW = """
def change(onnxruntime):
    import random, time
    plain = onnxruntime.InferenceSession
    class Session(plain):
        def run_with_iobinding(self, *some, **others):
            begun = time.perf_counter()
            super().run_with_iobinding(*some, **others)
            if random.random() < {share}:
                end = time.perf_counter() + {more} * (time.perf_counter() - begun)
                while time.perf_counter() < end:
                    pass
    onnxruntime.InferenceSession = Session
"""
FOOLS = {
    "spins": _SPINS,
    "crowds": _CROWDS + _PATCH,
    "mostly slow": _SLOW.format(share=0.8, more=0.4) + _PATCH,
    "tail": _SLOW.format(share=0.03, more=1.0) + _PATCH,
}


@contextmanager
def interpreter(kind: str) -> Iterator[str]:
    """The path of an interpreter of one of `FOOLS`; empty, which is this one, for any other."""
    if kind not in FOOLS:
        yield ""
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(FOOLS[kind], "utf-8")
        path = folder / "python"
        searched = ":".join(filter(None, (name, os.environ.get("PYTHONPATH", ""))))
        path.write_text(f'#!/bin/sh\nPYTHONPATH={searched} exec {sys.executable} "$@"\n', "utf-8")
        path.chmod(0o755)
        yield str(path)
