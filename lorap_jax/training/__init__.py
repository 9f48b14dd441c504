"""Training loop, checkpoints and reports."""
