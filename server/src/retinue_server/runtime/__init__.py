"""ONNX Runtime sessions: providers, options, memory, and what a batch costs. The only package that imports onnxruntime."""
