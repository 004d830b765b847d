"""Model packages of every kind: ours, MONAI Bundles, ONNX. Opened, drafted, added, verified."""
