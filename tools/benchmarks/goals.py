"""What the rows should reach at least."""

GOALS = {
    "predict-pipeline": 40.0,
    "predict-model": 2.0,
    "predict-model-bf16": 4.0,
    "predict-owlv2": 1.25,
    "predict-owlv2-bf16": 3.0,
    "oneshot": 1.8,
    "query": 200.0,
    "preprocess": 8.0,
    "train": 1.8,
    "train-tokendrop": 1.6,
    "train-efficiency": 0.8,
    "pretrain": 1.3,
    "selfsup": 1.3,
    "evaluate": 8.0,
    "loader": 0.5,
    "onnx-fp32": 2.5,
    "onnx-int8": 5.0,
    "predict-onnx": 4.0,
    "coldstart": 5.0,
}
"""Ratios by path, of float32 on two CPU cores unless the path says otherwise."""
