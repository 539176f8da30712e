"""Trains vision models in PyTorch and exports them as ONNX bundles that carry their own pre- and post-processing."""
