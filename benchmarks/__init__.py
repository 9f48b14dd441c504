"""Measures the library on this machine: `python -m benchmarks --help`."""

import os

# Read when torch starts its threads: without it they spin between calls, and
# whatever is measured next pays for it.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
