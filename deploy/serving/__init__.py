"""What the Triton python-backend models share: error answers per request, threads, and ONNX Runtime execution."""
