"""Train, distil and evaluate."""
