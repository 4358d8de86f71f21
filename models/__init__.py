"""The detectors in torch: where they may be cut, official weights, export to a bundle."""
