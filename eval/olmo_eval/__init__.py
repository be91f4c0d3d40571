"""Ranked classification of multiple-choice tasks, with the command line and files of the OLMo-Eval pipeline."""
