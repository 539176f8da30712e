"""Bundles on disk: finding them, and checking what their manifests promise.

Export uses this too, so that a manifest has one reader. Imports protobuf, never ONNX Runtime.
"""
