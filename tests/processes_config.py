"""The configuration of `processes_run`, for the flag of train.py."""

import tiny_run

get_config = lambda: tiny_run.config(
  train__plots=False, train__epochs=3, train__devices=0
)
