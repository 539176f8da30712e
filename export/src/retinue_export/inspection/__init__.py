"""What is in an ONNX graph: its inputs and outputs, its weights, and how much it computes.

Never runs a graph on images, and knows nothing of PyTorch.
"""
