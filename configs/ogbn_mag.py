"""ogbn-mag as the graph of its papers and citations, node classification.

    python train.py --config=configs/ogbn_mag.py:gcn,a2q,gpf_lorap

Authors, institutions and fields of study are left out: their nodes have no
features. Widths, rates and dropout are those of ogbn-arxiv, which is ours: what
the LoRAP paper trained is not known (it lists 34.2 %).

A run draws neighbourhoods: two layers, 25 neighbours of each paper and 20 of
each of these, batches of 1,024 papers, as OGB's own sampled example for this
data set has them (github.com/snap-stanford/ogb, examples/nodeproppred/mag,
sampler.py). A paper has 15 citations in the mean, both directions counted, so
that most papers keep all of theirs; a third layer would reach much of the graph
from every batch. An epoch has 615 steps (629,571 / 1,024). OGB's example ends
after 3 epochs; 10 are ours, since low bits learn slower. The whole graph at
once: --config.train.fanout=None.
"""

from ml_collections import config_dict

from configs import ogbn


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  return ogbn.create('ogbn_mag', cell)
