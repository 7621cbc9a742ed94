"""Targets that both exporters ask: HTTP, HTTPS, a line protocol, TLS, DNS. Run as a program: prints its ports."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Dog/1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(3)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status = 404 if self.path == "/404" else 200
        if self.path == "/auth" and self.headers.get("Authorization") != "Basic ZG9nOndhdGNo":
            status = 401
        body = f"host {self.headers['Host']}".encode() if self.path == "/host" else b"hello world"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Tue, 01 Jun 2021 10:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if body == b"hello" else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Says nothing."""


class Banner(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            self.wfile.write(b"220 dog ready\n")
            line = self.rfile.readline().decode().strip()
            if line == "STARTTLS":
                self.wfile.write(b"220 go\n")
                CONTEXT.wrap_socket(self.connection, server_side=True).recv(1)
                return
            self.wfile.write(b"250 hello " + line.removeprefix("HELO ").encode() + b"\n")
            self.rfile.readline()
        except OSError:
            """The other side left."""


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_args: object) -> None:
        """A TLS client that leaves early is no news."""


def dns(sock: socket.socket) -> None:
    while True:
        query, peer = sock.recvfrom(512)
        end = query.index(0, 12) + 5
        question = query[12:end]
        good = question.startswith(b"\x04good")
        answer = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 60, 4) + socket.inet_aton("192.0.2.7") if good else b""
        flags = 0x8180 if good else 0x8183
        sock.sendto(query[:2] + struct.pack("!HHHHH", flags, 1, int(good), 0, 0) + question + answer, peer)


def main(cert: str) -> None:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    https = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    CONTEXT.load_cert_chain(cert)
    https.socket = CONTEXT.wrap_socket(https.socket, server_side=True, do_handshake_on_connect=False)
    https.handle_error = lambda *_args: None  # type: ignore[method-assign]
    banner = Server(("127.0.0.1", 0), Banner)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    for server in (http, https, banner):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=dns, args=(udp,), daemon=True).start()
    ports = {
        "http": http.server_address[1],
        "https": https.server_address[1],
        "banner": banner.server_address[1],
        "dns": udp.getsockname()[1],
    }
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
