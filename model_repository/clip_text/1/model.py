"""CPU profile: OpenVINO runs the ONNX graph. The GPU profile loads ``model.plan`` and ignores this file."""

from veridict.deploy.serving.openvino_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
