"""Trains a quantized graph network with prompts.

  python train.py --config=configs/mnist_a2q_lorap.py
  python train.py --config=configs/cora.py:gcn,dq4,gpf_lorap --config.seeds=10

The same command goes on where a stopped run left off.
"""

from lorap_jax import train

if __name__ == '__main__':
  train.run()
