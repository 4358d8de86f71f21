"""Measure: timing, memory, power, accuracy, records, sweeps and reports."""
