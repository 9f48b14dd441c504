"""`lorap-jax COMMAND`: what can be done from a shell, from any folder."""

import importlib
import sys

COMMANDS = {
  'train': 'trains a configuration, as train.py does',
  'sweep': 'trains many, and goes on where it was stopped',
  'export': 'writes a run as integers that run elsewhere',
  'convert': 'makes a folder of one large graph that need not fit into memory',
  'prepare': 'makes superpixels and edge lists in shards, on many machines',
  'report': 'collects finished runs into a table',
  'doctor': 'says whether this machine is ready, and what to do if not',
}


def main() -> None:
  """Runs the command that the first argument names."""
  name = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if name in COMMANDS:
    sys.argv = [f'lorap-jax {name}', *sys.argv[2:]]
    importlib.import_module(f'lorap_jax.{name}').run()
    return
  usage = '\n'.join(
    ['usage: lorap-jax COMMAND ...', '']
    + [f'  {command:<8} {what}' for command, what in COMMANDS.items()]
    + ['', '`lorap-jax COMMAND --help` says more.']
  )
  if name in ('-h', '--help'):
    print(usage)
    return
  sys.exit(f'{usage}\n\nerror: no command {name!r}')


if __name__ == '__main__':
  main()
