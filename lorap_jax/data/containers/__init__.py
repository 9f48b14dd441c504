"""Data sets in memory: many graphs or one, their splits and features."""
