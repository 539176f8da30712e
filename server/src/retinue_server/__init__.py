"""Retinue's server: batched Classify, Detect and Segment over gRPC, run by ONNX Runtime.

Layers point one way, from `cli` and `app` by `rpc` and `http`, `service`, `catalog` and `pipeline` down to `batching`,
`runtime`, `vision` and `errors`; pyproject.toml lists them and import-linter holds them.
"""

__version__ = "0.1.0"
