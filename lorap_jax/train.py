"""Trains a quantized graph network with prompts.

  python train.py --config=configs/mnist_a2q_lorap.py
  python train.py --config=configs/cora.py:gcn,dq4,gpf_lorap --config.seeds=10

The same command goes on where a stopped run left off.
"""

import contextlib
import difflib
import os
import pathlib
import re
import shlex
import sys
import textwrap

from absl import app, flags, logging
from ml_collections import config_flags

from lorap_jax import _logging, _process
from lorap_jax._stopping import interrupt_on_termination

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Configuration file, with its recipe after a colon: '
  'configs/mnist_a2q_lorap.py:fast. Any field can be set: '
  '--config.optim.learning_rate=0.001.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder for checkpoints, metrics and the report; runs/NAME_RECIPE if not '
  'given.',
)
_FULL = flags.DEFINE_bool(
  'full', False, 'End with all quantities of the report, not with five.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0, where several processes train one run together; '
  'auto under Slurm. docs/scale.md.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes; with --coordinator.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process, from 0; with --coordinator.'
)


def main(argv: list[str]) -> None:
  """Runs the configuration and prints its result."""
  if len(argv) > 1:
    sys.exit(f'error: unknown argument {argv[1]!r}; {_remedy(argv[1])}')
  where = _place()
  if where and where.rank:
    logging.set_verbosity(logging.ERROR)
  config = _config()
  # Late, so that --help and a mistyped flag do not wait for JAX.
  from lorap_jax.runs import compile_cache, processes

  compile_cache.keep_programs()
  try:
    with processes.joined(where, config.to_dict()):
      _run(config)
  except (ValueError, OSError) as error:
    if logging.vlog_is_on(1):
      raise
    sys.exit(f'error: {error}')


def _place():
  """The place of this process among others, or an exit that says what lacks."""
  from lorap_jax.runs import star

  try:
    return star.place(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  except ValueError as error:
    sys.exit(f'error: {error}')


def _run(config) -> None:
  """Runs the configuration; process 0 prints its result."""
  from lorap_jax.reports import present, tables
  from lorap_jax.runs import processes, protocol
  from lorap_jax.runs import run as run_lib
  from lorap_jax.runs.hold import hold

  workdir = pathlib.Path(_WORKDIR.value or _default_workdir()).absolute()
  logging.info('Configuration: %s', _config_name())
  logging.info('Work folder: %s', workdir)
  main_process = processes.is_main()
  try:
    with contextlib.ExitStack() as held:
      if main_process:
        held.enter_context(hold(workdir))
      folder = held.enter_context(processes.own_folder(workdir))
      result = protocol.run(config, folder)
      if main_process:
        command = shlex.join(['python', *sys.argv])
        present.present(workdir, command=command)
  except run_lib.Interrupted:
    if main_process:
      print(
        f'Stopped; the state is saved in {workdir}. The same command goes on '
        'from it.',
        file=sys.stderr,
      )
    sys.exit(130)
  if main_process:
    tables.print_table(result, workdir, full=_FULL.value)


def _config():
  """The configuration, or an exit that says what is missing."""
  if _CONFIG.value is None:
    sys.exit(
      'error: --config is missing; for example python train.py '
      '--config=configs/mnist_a2q_lorap.py'
    )
  from lorap_jax.runs import fields

  config = _CONFIG.value
  given = config_flags.get_override_values(flags.FLAGS['config'])
  for path, value in given.items():
    if value == (None,):  # So ml_collections reads None where a list is due.
      config.update_from_flattened_dict({path: None})
  try:
    fields.drop_unused(config, given)
    # Before the import of JAX, which takes seconds.
    fields.check(config.to_dict())
  except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')
  return config


def _config_name() -> str:
  return getattr(flags.FLAGS['config'], 'config_filename')  # noqa: B009


def _remedy(argument: str) -> str:
  """What to type in place of an argument that is no flag."""
  if argument.partition(':')[0].endswith('.py'):
    return f'give the configuration as --config={argument}'
  return 'see --help'


def _check_arguments(argv: list[str]) -> None:
  """Exits at a file that is no configuration and at an unknown field."""
  for i, argument in enumerate(argv):
    name, equal, value = argument.lstrip('-').partition('=')
    if not argument.startswith('-'):
      continue
    if name == 'config':
      value = value if equal else (argv[i + 1 : i + 2] or [''])[0]
      _check_file(value.partition(':')[0])
    elif name.startswith('config.'):
      from lorap_jax.runs import fields

      path = name.removeprefix('config.')
      if path not in fields.NEEDS:
        sys.exit(f'error: {fields.unknown(path)}')


def _check_file(path: str) -> None:
  if not os.path.isfile(path):
    folder, name = os.path.split(path)
    there = sorted(pathlib.Path(folder or '.').glob('*.py'))
    near = difflib.get_close_matches(name, [p.name for p in there], 1)
    hint = f'; did you mean {os.path.join(folder, near[0])}?' if near else ''
    sys.exit(f'error: no configuration file {path!r}{hint}')
  if not path.endswith('.py'):
    sys.exit(
      f'error: {path!r} is no configuration file; give one of configs/, such '
      'as --config=configs/mnist_a2q_lorap.py'
    )


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; says what is wrong with one in a line, not a traceback."""
  _check_arguments(argv[1:])
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    text = str(error)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    # The lock of ml_collections: an unknown field, with the nearest name.
    while error.args and isinstance(error.args[0], Exception):
      error = error.args[0]
    text = ' '.join(f'unknown field {error.args[0]}'.split())
  except (SyntaxError, ImportError) as error:
    text = f'the configuration file cannot be read: {error}'
  line = text.strip().splitlines()[-1].strip()
  sys.exit(f'error: {re.sub(r"^[A-Za-z]+Error: ", "", line)}')


def _set_up_logging() -> None:
  """Plain lines; what libraries say only from warnings up."""
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(_logging.FirstLine('%(message)s'))
  handler.addFilter(_logging.is_told)


def _default_workdir() -> str:
  """runs/NAME or runs/NAME_RECIPE, from the --config flag."""
  name, _, recipe = _config_name().partition(':')
  stem = pathlib.Path(name).stem
  return os.path.join('runs', f'{stem}_{recipe}' if recipe else stem)


def _help() -> str:
  """What can be trained: files, names of methods, flags."""
  from lorap_jax.runs import cells

  files = sorted(pathlib.Path('configs').glob('*.py'))
  found = [str(p) for p in files if p.stem not in ('__init__', 'cells')]
  names = cells.names()
  rows = {
    'configurations': found or ['none here: give --config=FILE.py'],
    'backbones': names['model'],
    'quantizers': names['scheme'],
    'prompts': names['prompt'],
  }
  told = [
    textwrap.fill(
      ', '.join(row),
      80,
      initial_indent=f'  {name}: ',
      subsequent_indent='    ',
      break_on_hyphens=False,
    )
    for name, row in rows.items()
  ]
  options = [
    textwrap.fill(
      f'--{flag.name}: {flag.help}',
      80,
      initial_indent='  ',
      subsequent_indent='    ',
    )
    for flag in (
      flags.FLAGS[name]
      for name in (
        'config',
        'workdir',
        'full',
        'coordinator',
        'num_processes',
        'process_id',
      )
    )
  ]
  return '\n'.join(
    [
      __doc__.strip(),
      '',
      *told,
      '',
      *options,
      '',
      'All fields of a configuration: docs/configuration.md.',
    ]
  )


def run() -> None:
  """The whole program: `main` with flags, signals and logging set up."""
  if any(word in ('-h', '--help') for word in sys.argv[1:]):
    print(_help())
    return
  _process.set_up()
  interrupt_on_termination()
  _set_up_logging()
  try:
    app.run(main, flags_parser=_parse_flags)
  except KeyboardInterrupt:
    print(
      'Stopped at once; the same command goes on from the last checkpoint, if '
      'there is one.',
      file=sys.stderr,
    )
    sys.exit(130)
