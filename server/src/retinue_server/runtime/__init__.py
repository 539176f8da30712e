"""ONNX Runtime sessions: providers, options, memory, what a batch costs. Nothing else imports onnxruntime."""

import os

# Unless told so before its import, ONNX Runtime 1.31 reports its use to its makers and leaves files in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
