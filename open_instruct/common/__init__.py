"""Paths, command line, artifacts (sidecars, locks, atomic writes), JSON files, YAML schemas, models, errors."""
