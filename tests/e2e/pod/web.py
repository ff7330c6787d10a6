"""A web server that answers with what it sees: who asks, at which address, for which host. Usage: web.py PORT NAME.

It runs outside of the Pods, and as the application in them, so it needs nothing but Python.
"""

import http.server
import json
import socket
import sys


class Answer(http.server.BaseHTTPRequestHandler):
    """Each GET is answered with JSON."""

    def do_GET(self) -> None:
        """Tell what is seen."""
        here, peer = self.request.getsockname()[0], self.client_address[0]
        seen = {"name": sys.argv[2], "host": self.headers["Host"], "here": here, "peer": peer}
        body = json.dumps({key: str(value).removeprefix("::ffff:") for key, value in seen.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Of both families."""

    address_family = socket.AF_INET6


Server(("::", int(sys.argv[1])), Answer).serve_forever()
