"""Batched log-likelihood scoring and text generation with a transformers model (or vLLM)."""
