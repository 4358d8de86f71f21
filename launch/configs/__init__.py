"""Placements and sweeps as TOML."""
