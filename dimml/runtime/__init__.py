"""Execution of ONNX graphs on a CPU or a GPU."""
