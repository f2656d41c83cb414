"""Checks that a port can be listened on, before a server starts."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time


def refuse_taken(host: str, port: int, setting: str, patience: float = 0.0) -> None:
    """Exit with one line if the port cannot be used, or is in use for longer than `patience`."""
    deadline = time.monotonic() + patience
    while error := _cannot_listen(host, port):
        if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
            sys.exit(f"tasks-api: {_advice(error, host, port, setting)}")
        time.sleep(0.1)


def _advice(error: OSError, host: str, port: int, setting: str) -> str:
    """Return why the port cannot be used, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"{host} cannot be resolved ({error.strerror}); set API_HOST"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"port {port} needs privileges; set {setting} to one above 1023"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; stop what uses it or set {setting}"
    return f"cannot listen on {host} ({os.strerror(error.errno or 0)}); set API_HOST"


def _cannot_listen(host: str, port: int) -> OSError | None:
    """Try to bind each address of the host; return the error, None if it works.

    An address that this machine lacks is ignored if another one works: a host name may have an IPv6
    address on a machine without IPv6.
    """
    absent: OSError | None = None
    bound = False
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind(address)
                bound = True
            except OSError as error:
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    return error
                absent = error
    except UnicodeError:
        return socket.gaierror(socket.EAI_NONAME, "not a valid host name")
    except socket.gaierror as error:
        return error
    return None if bound else absent
