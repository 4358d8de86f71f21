"""Embedded detectors, data only."""
