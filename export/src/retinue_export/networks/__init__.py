"""The networks Retinue trains itself: plain `torch.nn` modules that take prepared pixels and give raw outputs.

They know nothing of training, scenes or ONNX; the recipes bring those together.
"""
