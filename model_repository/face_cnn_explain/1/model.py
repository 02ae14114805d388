"""CPU profile: ``face_cnn``'s graph for explanations, on cores that verdicts leave free. The GPU profile has no use."""

from pathlib import Path

from veridict.deploy.serving import openvino_model as onnx
from veridict.deploy.serving.scheduling import yield_cores
from veridict.forensics.signature import FACE_CNN


class TritonPythonModel(onnx.TritonPythonModel):
    def initialize(self, args):
        yield_cores()  # before the inference threads start: they inherit it
        folder = Path(args["model_repository"]).with_name(FACE_CNN.name)
        super().initialize({**args, "model_name": FACE_CNN.name, "model_repository": str(folder)})
