"""An ONNX file that can be called like the network that it was written from.

What measures a network (the metrics of a task) then measures what a runtime makes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimnet.capture.modules import evaluation_mode
from slimnet.errors import InputError
from slimnet.example import Example, is_plain, is_read, map_tensors, named_tensors, positional
from slimnet.export.inputs import images_of
from slimnet.export.session import feed, fixed_batch, open_session, reason_of
from slimnet.export.translate import on_cpu
from slimnet.network import Network


class OnnxModule(nn.Module):
    """Takes what the network takes, and gives its outputs in the same containers.

    Outputs that the file leaves out are None. It runs on ``threads`` threads of the CPU (0:
    onnxruntime's own choice).
    """

    def __init__(
        self,
        path: Path,
        network: Network,
        example: tuple[Any, ...],
        read: Sequence[str] = (),
        *,
        threads: int = 0,
    ) -> None:
        """Open the file; raises InputError where it is not to be called so."""
        super().__init__()
        self._session = open_session(path, threads=threads)
        if images_of(example) or fixed_batch(self._session) is not None:
            raise InputError(
                f"{path.name} takes one number of images only, and a metric needs any: give a "
                "network that takes any batch"
            )
        self._network = [network]  # in a list: its parameters are none of this module's
        self._outputs = _outputs(network, example)
        names = [name for name, _ in named_tensors(self._outputs)]
        self._written = [is_read(name, read) for name in names]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs for one batch."""
        (network,) = self._network
        example: Example = named or inputs
        computed = iter(self._run(positional(network.model, example)))
        places = {
            id(tensor): next(computed) if is_written else None
            for (_, tensor), is_written in zip(
                named_tensors(self._outputs), self._written, strict=True
            )
        }
        return map_tensors(lambda tensor: places[id(tensor)], self._outputs)

    def _run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        try:
            arrays = self._session.run(None, feed(self._session, inputs))
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise InputError(f"the ONNX file does not run: {reason_of(error)}") from error
        return list(map(torch.from_numpy, arrays))


def _outputs(network: Network, example: tuple[Any, ...]) -> Any:
    """What the network gives for the example: containers to be filled."""
    here = on_cpu(network)
    with evaluation_mode(here), torch.no_grad():
        outputs = here.model(*map_tensors(lambda tensor: tensor.cpu(), example))
    if not is_plain(outputs):
        raise InputError(
            f"{network.name} gives its outputs in an object of its own, which no file can: a "
            "metric of the file needs tensors, tuples or dicts"
        )
    return outputs
