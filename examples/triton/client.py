"""Asks a running Triton server for classes of a random image; needs tritonclient[http]."""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.http as triton


def main(name: str, address: str = "localhost:8000") -> None:
    """Prints the five highest classes.

    Args:
        name: the model's folder in the repository.
        address: of the server.
    """
    client = triton.InferenceServerClient(address)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    given = triton.InferInput("image", image.shape, "FP32")
    given.set_data_from_numpy(image)
    logits = client.infer(name, [given]).as_numpy("logits")[0]
    print(np.argsort(logits)[::-1][:5])


if __name__ == "__main__":
    main(*sys.argv[1:])
