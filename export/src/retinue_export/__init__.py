"""Trains vision models in PyTorch and turns them into ONNX bundles with a proof that both compute the same thing.

The only distribution that imports torch. Of the server it imports `vision` and `bundle`, so that a bundle is
measured with what will serve it, and `errors`, which these raise; nothing of the server imports it.
"""

import os

# Unless told so before its import, ONNX Runtime 1.31 reports its use to its makers and leaves files in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
