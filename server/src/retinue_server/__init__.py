"""Retinue's server: batched Classify, Detect and Segment over gRPC, run by ONNX Runtime.

Layers point one way: `rpc` and `http` -> `batching` -> `runtime`; `vision` and `errors` are leaves.
"""

__version__ = "0.1.0"
