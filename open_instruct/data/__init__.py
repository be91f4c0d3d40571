"""From dataset rows to prompts and token ids: sources, sampling, templates, decontamination, encoding, inspection."""
