"""CPU profile: OpenVINO runs the ONNX graph. The GPU profile loads ``model.plan`` and ignores this file."""

from veridict.deploy.backend.onnx import TritonPythonModel

__all__ = ["TritonPythonModel"]
