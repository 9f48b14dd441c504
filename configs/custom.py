r"""Your own data, from an npz file (see docs/own_data.md).

    python train.py --config=configs/custom.py:gcn,dq8,lorap \
      --config.data.path=my.npz

`lorap_jax.own_data_config` is the same for Python. Pool and encoder follow from
the file: none of them where nodes have labels, a dense encoder and mean pooling
where graphs have. Ours.
"""

from lorap_jax.runs.default_config import own_data_config as get_config

__all__ = ['get_config']
