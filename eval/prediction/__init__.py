"""Predictions of one model for evaluation files: specification, encoding, generation, label scoring, resumption."""
