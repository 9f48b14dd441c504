"""Array types and axis letters used in signatures.

Axis letters: `n` nodes (or rows), `e` edges, `g` graphs, `f` features,
`m` groups of a table, `k` prompts, `r` rank.
"""

from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Scalar

__all__ = ['Array', 'Bool', 'Float', 'Int', 'Key', 'PyTree', 'Scalar']
