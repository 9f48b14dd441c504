"""Runs: a configuration resolved, a folder, checkpoints, loops, one result."""
