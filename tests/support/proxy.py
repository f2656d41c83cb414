"""A TCP proxy whose connections can be cut, refused and frozen."""

import asyncio
import atexit
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self

from .ports import free_port

_CHUNK = 64 * 1024
# Seconds that a command may take in the proxy's thread.
_PATIENCE = 10.0


class Proxy:
    """Forwards a free port of 127.0.0.1 to `target_host`:`target_port`.

    Runs in its own thread from construction to `close()`. Each method returns
    when it has taken effect. A client whose target cannot be reached is reset. Can be
    used as a context manager, which closes it.
    """

    def __init__(
        self, target_host: str, target_port: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """Start to forward. `tls`: the context of a TLS server; then clients must use TLS."""
        self.port = free_port()
        self._tls = tls
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True
        )
        self._thread.start()
        atexit.register(self.close)
        self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Return how many client connections are open."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset (RST) all connections, on both sides; new ones work."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Reset all connections and refuse new ones until `accept()`."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Listen on `port` again after `refuse()`; otherwise do nothing."""
        self._do(self._accept())

    def freeze(self) -> None:
        """Forward no data and no end of stream, in either direction, until `thaw()`.

        Connections stay open, and new ones are accepted but silent.
        """
        self._do(self._freeze())

    def thaw(self) -> None:
        """Forward again, starting with the data that was held back."""
        self._do(self._thaw())

    def close(self) -> None:
        """Reset all connections, stop listening and end the thread; idempotent."""
        if self._loop.is_closed():
            return
        atexit.unregister(self.close)
        self.refuse()
        self._do(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def _do(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(_PATIENCE)

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._on_client, "127.0.0.1", self.port, backlog=128, ssl=self._tls
            )

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
            pair.task.cancel()
        self._pairs.difference_update(pairs)
        ended = await asyncio.gather(*(pair.task for pair in pairs), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):  # a task that was cancelled before it began is none
                raise error

    async def _freeze(self) -> None:
        self._flowing.clear()

    async def _thaw(self) -> None:
        self._flowing.set()

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: if its task were cancelled before its first step, the connection would stay.
        if self._server is None:  # accepted just before refuse()
            _reset(writer)
            return
        pair = _Pair(writer)
        self._pairs.add(pair)
        pair.task = asyncio.create_task(self._serve(pair, reader, writer))

    async def _serve(
        self, pair: "_Pair", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._forward(pair, reader, writer)
            pair.close()
        except* (OSError, asyncio.CancelledError):
            pair.reset()
        finally:
            self._pairs.discard(pair)

    async def _forward(
        self, pair: "_Pair", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            pair.add(target_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, target_writer))
                pumps.create_task(self._pump(target_reader, writer))
        except* OSError:
            await self._flowing.wait()  # resets are not forwarded either
            raise

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()
        await self._flowing.wait()
        if sink.can_write_eof():
            sink.write_eof()
        else:  # TLS cannot close one direction alone
            sink.close()


class _Pair:
    """A client's connection, and the connection to the target that belongs to it."""

    task: asyncio.Task[Any]  # forwards them

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._writers = [client]

    def add(self, target: asyncio.StreamWriter) -> None:
        self._writers.append(target)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        """Close both with RST, dropping what is buffered."""
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, dropping what is buffered."""
    connection = writer.get_extra_info("socket")
    if not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _end_tasks() -> None:
    """Wait until all other tasks of this loop have ended, cancelling them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
