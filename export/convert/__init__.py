"""From PyTorch modules to what is served: ONNX graphs, TensorRT engines, the model repository."""
