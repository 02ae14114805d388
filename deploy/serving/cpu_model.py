"""The CPU profile of a network: its graph inside the Python backend, with the tensor names of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics.signature import MODELS

from ..manifest import read_manifest
from .cpu_runtime import load_network
from .responses import fail, parameter, version_folder, write


class TritonPythonModel:
    """Runs the graph that the manifest names for the CPU profile on the batch that the scheduler formed."""

    #: The network whose graph is run; None stands for the model's own name.
    network_name: str | None = None

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network; the configuration's ``threads`` (0 = one per core) and ``precision`` say how it runs.

        The parameter ``graph`` names another file in the folder of the served graph; explanations have it.
        """
        self.model = MODELS[self.network_name or args["model_name"]]
        graph = read_manifest(version_folder(args).parent.parent).graph(self.model.name, "cpu")
        graph = graph.with_name(parameter(args, "graph", graph.name))
        self.network = load_network(graph, int(parameter(args, "threads", "0")), parameter(args, "precision", ""))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the rows of all requests in one call."""
        (wanted,) = self.model.inputs
        arrays = [pb_utils.get_input_tensor_by_name(r, wanted.name).as_numpy() for r in requests]
        try:
            results = self.network(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        except Exception as error:  # every request of the batch gets the error, and the process goes on
            return [fail(self.model.name, error, request.request_id()) for request in requests]
        bounds = np.cumsum([len(a) for a in arrays])[:-1]
        parts = zip(*(np.split(rows, bounds) for rows in results), strict=True)
        return [
            pb_utils.InferenceResponse([write(t, rows) for t, rows in zip(self.model.outputs, part, strict=True)])
            for part in parts
        ]
