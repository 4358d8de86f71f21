"""The figures of a report: each draws runs and nothing else. matplotlib is loaded when the first one is drawn."""
