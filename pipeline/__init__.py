"""Move packets between ranks. Knows no network, no torch, no files."""
