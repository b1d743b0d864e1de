"""A real HTTP server on loopback that runs in a thread while its ``with`` block does."""

import http.server
import threading


class LoopbackServer(http.server.ThreadingHTTPServer):
    """Any free port, if it is 0."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler, port=0):
        super().__init__(("127.0.0.1", port), handler)

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that gave up or was killed is no news."""
