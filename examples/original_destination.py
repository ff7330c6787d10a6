#!/usr/bin/env python3
"""Stand in for the proxy: answer every connection over HTTP with the address that the client meant.

    original_destination.py --port 15001 --uid 1337

The kernel keeps the destination a redirected connection had; the proxy's end asks for it with SO_ORIGINAL_DST.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct

SO_ORIGINAL_DST = 80  # <linux/netfilter_ipv4.h>


def original_destination(connection: socket.socket) -> str:
    """Where the client wanted to go, as `address:port`."""
    port, address = struct.unpack_from("!2xH4s", connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16))
    return f"{socket.inet_ntoa(address)}:{port}"


def serve(listener: socket.socket) -> None:
    """Answer connections, one after the other, for ever."""
    port = listener.getsockname()[1]
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            body = f"arrived at port {port}, original destination {original_destination(connection)}\n"
            connection.recv(65536)
            connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def main() -> None:
    """Listen on every address of this network namespace, as the given user from then on."""
    parser = argparse.ArgumentParser(description="Answer every connection with its original destination.")
    parser.add_argument("--port", type=int, default=15001)
    parser.add_argument("--uid", type=int, help="become this user and group (needs root)")
    options = parser.parse_args()
    listener = socket.create_server(("", options.port))
    if options.uid is not None:
        os.setgroups([])
        os.setgid(options.uid)
        os.setuid(options.uid)
    print(f"listening on port {options.port} as uid {os.getuid()}", flush=True)
    serve(listener)


if __name__ == "__main__":
    main()
