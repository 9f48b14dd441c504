"""Configurations: `python train.py --config=configs/NAME.py`."""
