"""A stand-in for a service: answers pings and HTTP requests, records the stop signal in a file, and stops.

Started as `standin.py NAME`; all settings come from the environment, as for a service.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from muster.common.bus.connection import Incoming, open_bus
from muster.embedded.private_files import write_private


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = str(os.getpid()).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def stand(name: str) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    creds = os.environ.get("MUSTER_NATS_CREDENTIALS")
    async with open_bus(os.environ["MUSTER_NATS_URL"], name, credentials=Path(creds) if creds else None) as bus:

        async def pong(message: Incoming) -> None:
            await bus.send(message.reply, b"{}")

        await bus.subscribe(f"$SRV.PING.{name}", pong)
        await bus.flush()
        if door := os.environ.get("MUSTER_HTTP_FD"):
            await asyncio.start_server(answer_http, sock=socket.socket(fileno=int(door)))
        await told.wait()


def main() -> None:
    name, notes = sys.argv[1], Path(os.environ["MUSTER_NOTES"])
    write_private(notes / f"{name}.env", "\n".join(f"{key}={value}" for key, value in os.environ.items()).encode())
    if sys.argv[2:] == ["migrate"]:
        (notes / "migrated").touch()
        return
    if os.environ.get("STANDIN_CRASHES"):
        print("I am about to crash", flush=True)
        sys.exit(3)
    asyncio.run(stand(name))
    with (notes / "stopped").open("a") as stopped:
        stopped.write(f"{name}\n")


if __name__ == "__main__":
    main()
