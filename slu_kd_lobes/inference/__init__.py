"""Trained models in use: packages, ONNX, command line, web page."""
