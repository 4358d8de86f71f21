"""Meters of power and energy: one file per kind of hardware."""
