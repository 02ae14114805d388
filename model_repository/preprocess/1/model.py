"""Decoding, forensic measurements and face finding; the one step that refuses requests when the server is full."""

from veridict.deploy.serving.preprocess_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
