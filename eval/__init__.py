"""Evaluation scripts: predictions, metrics, and measurements of model weights."""
