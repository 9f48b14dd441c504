"""Fields that all configurations share: `lorap_jax.default_config`."""

from lorap_jax.training.default_config import get_config

__all__ = ['get_config']
