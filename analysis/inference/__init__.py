"""Statistical inference: contrasts between models, claims with verdicts, comparison with the paper."""
