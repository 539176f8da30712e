"""Queues, batches and the threads that run them. Sees a `Backend`, and nothing of ONNX Runtime or of images."""
