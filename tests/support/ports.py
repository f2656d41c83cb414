"""TCP ports for the tests' servers."""

import random
import socket

# Below Linux's range for outgoing connections (from 32768 on): otherwise a client could get
# the port of a server that is down, or connect to itself when it tries to reach the server.
_PORTS = range(20000, 32000)

_given: set[int] = set()


def free_port() -> int:
    """Return a free port of 127.0.0.1.

    A process is never given the same port twice. Raises OSError when none is free.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers do, so that connections in TIME_WAIT do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError("no free port")
