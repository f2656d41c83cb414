"""`make bench`: measures the service and its peers on this machine; see `__main__.py`."""
