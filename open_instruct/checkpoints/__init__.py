"""Checkpoints of public families: declared, listed, downloaded over HTTP or from the Hub, verified, compared."""
