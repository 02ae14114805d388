"""Checkpoints to served models: training, ONNX export, calibration, evaluation, repository assembly."""
