"""CPU profile: runs the ONNX graph in this process. The GPU profile loads ``model.plan`` and ignores this file."""

from veridict.deploy.serving.cpu_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
