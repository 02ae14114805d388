"""The CPU profile of an engine step: ONNX Runtime inside the python backend, with the engine's own tensor names."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.deploy.repository import cpu_graph
from veridict.forensics.signature import MODELS

from .serving import fail, parameter, version_folder, write


class TritonPythonModel:
    """Runs the graph of the model's version folder (int8 where there is one) on the batch that the scheduler formed."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network; the configuration's ``intra_op_threads`` sets its threads (default 2)."""
        import onnxruntime

        self.model = MODELS[args["model_name"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameter(args, "intra_op_threads", "2"))
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores that preprocessing needs while this model waits for work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            cpu_graph(version_folder(args)), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests' rows in one call, in chunks of at most the model's largest batch."""
        (wanted,), (produced,) = self.model.inputs, self.model.outputs
        arrays = [pb_utils.get_input_tensor_by_name(r, wanted.name).as_numpy() for r in requests]
        try:
            rows = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
            step = self.model.max_batch_size
            parts = [
                self.session.run([produced.name], {wanted.name: rows[i : i + step]})[0]
                for i in range(0, len(rows), step)
            ]
            results = np.concatenate(parts)
        except Exception as error:  # answered to every request of the batch; the stub goes on
            return [fail(self.model.name, error) for _ in requests]
        bounds = np.cumsum([len(a) for a in arrays])[:-1]
        return [pb_utils.InferenceResponse([write(produced, part)]) for part in np.split(results, bounds)]
