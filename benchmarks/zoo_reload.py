"""Load a slim.pt in a fresh process and compare its outputs, to the bit, with those kept beside it.

python benchmarks/zoo_reload.py FOLDER [THREADS]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import slimnet
from slimnet.example import tensors_of


def main() -> int:
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]) if sys.argv[2:] else 1)
    kept = torch.load(folder / "expected.pt", weights_only=True)
    with torch.no_grad():
        outputs = tensors_of(slimnet.load(folder / "slim.pt")(*kept["inputs"]))
    same = len(outputs) == len(kept["outputs"]) and all(map(torch.equal, outputs, kept["outputs"]))
    print("equal" if same else f"differs: {worst(outputs, kept['outputs'])}")
    return int(not same)


def worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> str:
    shapes = [[tuple(x.shape) for x in outputs] for outputs in (found, expected)]
    if shapes[0] != shapes[1]:
        return f"shapes {shapes[0]} instead of {shapes[1]}"
    pairs = zip(found, expected, strict=True)
    return f"by up to {max(float((a - b).abs().max()) for a, b in pairs if a.numel())}"


if __name__ == "__main__":
    sys.exit(main())
