"""Host files, data only."""
