"""`make bench`: the budget, measured on this machine beside the peers; see `__main__.py`."""
