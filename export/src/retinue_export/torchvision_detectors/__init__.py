"""torchvision's detectors as they are exported: each up to what PyTorch cannot export, which is ONNX nodes here.

`architectures.build` makes one. The catalogue and the command line use it; it imports neither.
"""
