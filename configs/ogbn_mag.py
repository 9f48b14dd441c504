r"""ogbn-mag as the graph of its papers and citations, node classification.

    python train.py --config=configs/ogbn_mag.py:gcn,a2q,gpf_lorap

Authors, institutions and fields of study are left out: their nodes have no
features. Widths, rates and dropout are those of ogbn-arxiv, which is ours: what
the LoRAP paper trained is not known (it lists 34.2 %).

A run draws neighbourhoods: two layers, 25 neighbours of each paper and 20 of
each of these, batches of 1,024 papers, as OGB's own sampled example for this
data set has them (github.com/snap-stanford/ogb, examples/nodeproppred/mag,
sampler.py). A paper has 15 citations in the mean (2 x 5,416,271 / 736,389),
fewer than are drawn; a third layer would reach much of the graph from every
batch. An epoch has 615 steps (629,571 / 1,024). OGB's example ends
after 3 epochs; 10 are ours, since low bits learn slower. The whole graph at
once: --config.train.fanout=None.

All four kinds of nodes and eight relations, the reverses counted:

    python train.py --config=configs/ogbn_mag.py:rgcn,dq8,lorap \
      --config.data.relations=True

OGB's example is that graph with this fan-out, its citations one relation. Nodes
other than papers have means of features here, see lorap_jax/data/sets/ogb.py.
"""

from ml_collections import config_dict

from configs import ogbn


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  return ogbn.create('ogbn_mag', cell)
