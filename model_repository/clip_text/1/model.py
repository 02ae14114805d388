"""CPU profile: OpenVINO or ONNX Runtime runs the ONNX graph. The GPU profile loads ``model.plan`` and ignores this file."""

from veridict.deploy.serving.cpu_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
