"""Fields that all configurations share: `lorap_jax.default_config`."""

from lorap_jax.runs.default_config import get_config

__all__ = ['get_config']
