"""The CPU profile of an engine step: OpenVINO inside the python backend, with the engine's own tensor names."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics.signature import MODELS

from ..repository import cpu_graph
from .openvino_runtime import Network
from .responses import fail, parameter, version_folder, write


class TritonPythonModel:
    """Runs the graph of the model's version folder (int8 where there is one) on the batch that the scheduler formed."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network; the configuration's ``threads`` (0 = one per core) and ``precision`` say how it runs.

        ``graph`` names a file of the version folder in place of the one that verdicts use.
        """
        self.model = MODELS[args["model_name"]]
        named = parameter(args, "graph", "")
        graph = version_folder(args) / named if named else cpu_graph(version_folder(args))
        self.network = Network(graph, int(parameter(args, "threads", "0")), parameter(args, "precision", ""))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests' rows in one call."""
        (wanted,) = self.model.inputs
        arrays = [pb_utils.get_input_tensor_by_name(r, wanted.name).as_numpy() for r in requests]
        try:
            results = self.network(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        except Exception as error:  # answered to every request of the batch; the stub goes on
            return [fail(self.model.name, error) for _ in requests]
        bounds = np.cumsum([len(a) for a in arrays])[:-1]
        parts = zip(*(np.split(rows, bounds) for rows in results), strict=True)
        return [
            pb_utils.InferenceResponse([write(t, rows) for t, rows in zip(self.model.outputs, part, strict=True)])
            for part in parts
        ]
