"""ONNX Runtime sessions: providers, options, memory, what a batch costs. Nothing else imports onnxruntime."""
