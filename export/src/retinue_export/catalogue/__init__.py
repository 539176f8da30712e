"""Every architecture that is exported, each shown to compute the same in ONNX Runtime as in PyTorch.

Rows say what there is, `liveness` makes freshly built networks answer something, and `proof` compares. Only the
command line imports this package.
"""
