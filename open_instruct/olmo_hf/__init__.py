"""Conversion of OLMo checkpoints to transformers format, verified by their logits."""
