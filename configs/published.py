r"""Every cell that a method's own publication has, as published.

    python train.py --config=configs/published.py:reddit_binary-gin-dq4 \
      --config.folds=10

takes DATASET-BACKBONE-METHOD, one of `CELLS`, and runs the method with
`published=True`: its arithmetic and its layers (docs/differences.md). All of
them, one after the other, going on where it was stopped:

    python -m lorap_jax.sweep runs/published "$(python -m configs.published)"

| method     | data sets                                                     |
|------------|---------------------------------------------------------------|
| qat8, qat4 | REDDIT-BINARY                                                 |
| dq8, dq4   | REDDIT-BINARY; Cora, CiteSeer, MNIST, CIFAR-10 and ZINC       |
| a2q        | Cora, CiteSeer, PubMed, ogbn-arxiv, MNIST, CIFAR-10, ZINC,    |
|            | REDDIT-BINARY, with the backbones of its README               |
| mixq       | Cora, CiteSeer, PubMed, ogbn-arxiv; REDDIT-BINARY             |

Hyper-parameters and schedules: A2Q's README and scripts
(github.com/weihai-98/A-2Q), REDDIT-BINARY of QAT and Degree-Quant from
github.com/camlsys/degree-quant, MixQ's from github.com/SamirMoustafa/MixQ.
Degree-Quant's for the other data sets are in the appendix of its paper, which
we have not read: they run on A2Q's hosts, with its rates.

Not as published: the epoch counts by validation (A2Q: the best test epoch,
which reports show beside it); REDDIT-BINARY of MixQ is not the cleaned one; one
schedule serves all phases of MixQ; ogbn-arxiv has its batch norm before ReLU
in all methods; a GAT has one rate for all scales of messages, attention and
logits. Published are 10 folds of REDDIT-BINARY and 10 runs of MixQ and of A2Q
on graphs (its scripts for one graph make 2): add `folds=10` or `seeds=10`.
"""

from ml_collections import config_dict

from configs import (
  cifar10,
  citeseer,
  cora,
  mnist,
  ogbn_arxiv,
  pubmed,
  reddit_binary,
  zinc,
)

_DATASETS = {
  'cora': cora,
  'citeseer': citeseer,
  'pubmed': pubmed,
  'ogbn_arxiv': ogbn_arxiv,
  'mnist': mnist,
  'cifar10': cifar10,
  'zinc': zinc,
  'reddit_binary': reddit_binary,
}
_A2Q = {
  'gcn': (
    'cora',
    'citeseer',
    'pubmed',
    'ogbn_arxiv',
    'mnist',
    'cifar10',
    'zinc',
  ),
  'gin': ('cora', 'citeseer', 'mnist', 'cifar10', 'reddit_binary'),
  'gat': ('cora', 'citeseer', 'pubmed', 'mnist', 'cifar10'),
}
_DQ = ('cora', 'citeseer', 'mnist', 'cifar10', 'zinc')
CELLS = (
  *(f'reddit_binary-gin-{m}' for m in ('qat8', 'qat4', 'dq8', 'dq4')),
  *(
    f'{data}-{backbone}-{method}'
    for data in _DQ
    for backbone in ('gcn', 'gat', 'gin')
    for method in ('dq8', 'dq4')
  ),
  *(f'{data}-{kind}-a2q' for kind, all_of in _A2Q.items() for data in all_of),
  *(
    f'{data}-gcn-mixq' for data in ('cora', 'citeseer', 'pubmed', 'ogbn_arxiv')
  ),
  'reddit_binary-gin-mixq',
)
# One of each method and of each kind of data, for the tests.
RECIPES = (
  'reddit_binary-gin-dq4',
  'reddit_binary-gin-qat4',
  'mnist-gin-a2q',
  'cora-gat-a2q',
  'cora-gcn-mixq',
  'reddit_binary-gin-mixq',
)
_PLANETOID = ('cora', 'citeseer', 'pubmed')
_SUPERPIXELS = ('mnist', 'cifar10')


def get_config(cell: str = RECIPES[0]) -> config_dict.ConfigDict:
  """The configuration of a published cell.

  Args:
    cell: one of `CELLS`.

  Returns:
    A configuration, without prompts.

  Raises:
    ValueError: another cell.
  """
  if cell not in CELLS:
    raise ValueError(
      f'give DATASET-BACKBONE-METHOD after the colon, one of {CELLS}; got '
      f'{cell!r}'
    )
  data, backbone, method = cell.split('-')
  config = _DATASETS[data].get_config(f'{backbone},{method},none')
  config.scheme.published = True
  if data in _SUPERPIXELS:
    _set_superpixels(config, backbone)
  if data not in (*_PLANETOID, 'ogbn_arxiv'):
    config.train.settle_batches = 0
  if method == 'a2q':
    _set_a2q(config, data, backbone)
  elif method == 'mixq':
    _set_mixq(config, data)
  else:
    _set_affine(config, data, method)
  return config


def _set_superpixels(config: config_dict.ConfigDict, backbone: str) -> None:
  """A2Q's schedule, which is its host's."""
  config.model.normalize_pooled = False
  config.optim.learning_rate = 1e-3
  config.train.epochs = 50 if backbone == 'gat' else 200
  config.train.schedule = 'plateau'
  config.train.patience = 5 if backbone == 'gin' else 10


def _set_affine(config: config_dict.ConfigDict, data: str, method: str) -> None:
  """QAT and Degree-Quant: no estimate of a range is cheaper or ours."""
  scheme = config.scheme
  scheme.stride = None
  scheme.percentile = None
  scheme.sum_percentile = None
  config.train.selection = 'val_loss'
  if data != 'reddit_binary':
    scheme.redraw = True
  elif method.startswith('qat'):
    config.optim.learning_rate = 0.05 if method == 'qat4' else 0.005
  elif method == 'dq8':
    scheme.low = 0.0


def _set_a2q(config: config_dict.ConfigDict, data: str, backbone: str) -> None:
  scheme = config.scheme
  # `--init uniform` of the README; `norm` for the others.
  uniform = (data, backbone) in (('cifar10', 'gcn'), ('mnist', 'gin'))
  scheme.start = 'uniform' if uniform else 'normal'
  if data not in (*_PLANETOID, 'ogbn_arxiv'):
    return
  if backbone == 'gin':
    scheme.quantize_features = True
    scheme.weight_start = scheme.feature_start = (0.01, 0.1)
  if backbone == 'gat' or data == 'ogbn_arxiv':
    scheme.weight_start = (0.01, 0.02)
    scheme.feature_start = (0.1, 0.2)
  if backbone == 'gat':
    scheme.message_start = (0.001, 0.001)


def _set_mixq(config: config_dict.ConfigDict, data: str) -> None:
  optim, train = config.optim, config.train
  config.scheme.cost_weight = 0.1
  if data == 'ogbn_arxiv':
    optim.weight_decay = 2e-4
    config.model.dropout = 0.0
    train.search_epochs = train.pretrain_epochs = train.epochs = 500
    train.schedule = 'step'
    train.step_epochs = 100
  if data == 'reddit_binary':
    config.model.own_term = False
    config.model.full_precision_first = False
    config.model.readout_dropout = 0.0


if __name__ == '__main__':
  print(f'configs/published.py:{{{",".join(CELLS)}}}')
