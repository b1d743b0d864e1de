"""A real HTTP server on loopback that speaks just enough of the chat completions protocol, and breaks it on request."""

from __future__ import annotations

import collections
import http.server
import json
import re
import threading

from loopback_server import LoopbackServer


class LoopbackJudge(LoopbackServer):
    """Answers with ``respond(prompt, n)``, n counting the requests with this prompt from 0.

    ``respond`` gives the text of a reply, or (status, body) for anything else. Use as a context manager.
    """

    def __init__(self, respond):
        super().__init__(_Handler)
        self.respond = respond
        self.requests, self.headers = [], []
        self.of_prompt = collections.Counter()
        self.open, self.most_open = 0, 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        with server.lock:
            n = server.of_prompt[prompt]
            server.of_prompt[prompt] += 1
            server.requests.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        try:
            response = server.respond(prompt, n)
        finally:
            with server.lock:
                server.open -= 1
        status, body = (200, completion(response)) if isinstance(response, str) else response
        if status is None:  # hang up in the midst of it
            self.close_connection = True
            return
        self.send_response(status)
        # The client is told not to wait long, so that the tests need not.
        self.send_header("retry-after-ms", "1")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def completion(text):
    """The body of a response with one reply."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


def answer_in(prompt):
    """What stands between the fences of a request."""
    return re.search(r"^<answer (\w+)>\n(.*)\n^</answer \1>$", prompt, re.DOTALL | re.MULTILINE)[2]
