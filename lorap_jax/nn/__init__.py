"""Linen modules over the pure functions."""
