"""Quantizers as pure functions. Import the module of the framework you need."""

from lorap_jax.quantization import a2q, a2q_groups, numerics

__all__ = ['a2q', 'a2q_groups', 'numerics']
