"""Observations -> verdict document and fake probability."""

from veridict.deploy.serving.fusion_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
