"""Finished runs: collected, compared with what is published, shown."""
