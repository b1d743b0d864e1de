"""A real HTTP server on loopback that speaks what gcsfs and tensorstore use of Cloud Storage's JSON API.

Objects live in memory. Every object has a generation, and writes with ``ifGenerationMatch`` are refused where it is
another, for that is what a commit of tensorstore relies on. ``python tests/loopback_bucket.py PORT`` serves by itself.
"""

from __future__ import annotations

import http.server
import itertools
import json
import re
import sys
import threading
from urllib.parse import parse_qsl, unquote, urlsplit

from loopback_server import LoopbackServer

OBJECT = r"/o(?:/([^/]+)(?:/(moveTo|rewriteTo)/(.+))?)?"
NAMES = re.compile(rf"(?:/download|/upload)?/storage/v1/b/([^/]+)(?:{OBJECT})?")
UPDATED = "2026-01-01T00:00:00.000Z"


class LoopbackBucket(LoopbackServer):
    """Any name but ``forbidden`` is a bucket; ``objects`` by (bucket, name): (generation, bytes). A context manager."""

    def __init__(self, port=0):
        super().__init__(_Handler, port)
        self.objects, self.uploads, self.requests = {}, {}, []
        self.lock, self.generations = threading.Lock(), itertools.count(1)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self):
        """What a process needs to take this for Cloud Storage."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # tensorstore
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else it asks Google what kind of bucket this is
        }

    def put(self, key, data):
        """Stores an object and gives its description."""
        self.objects[key] = next(self.generations), data
        return self.described(key)

    def described(self, key):
        generation, data = self.objects[key]
        about = {"kind": "storage#object", "bucket": key[0], "name": key[1], "size": str(len(data))}
        return about | {"generation": str(generation), "metageneration": "1", "updated": UPDATED}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_GET(self):
        bucket, name, *_ = self._target()
        with self.server.lock:
            if bucket == "forbidden":
                self._tell(403, {"error": {"code": 403, "message": "no access"}})
            elif name is None:
                listed = urlsplit(self.path).path.endswith("/o")
                self._tell(200, self._listing(bucket) if listed else {"kind": "storage#bucket", "name": bucket})
            elif self._allowed((bucket, name)):
                generation, data = self.server.objects[bucket, name]
                if self._query().get("alt") != "media":
                    self._tell(200, self.server.described((bucket, name)))
                    return
                asked, size = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")), len(data)
                headers = {"x-goog-generation": str(generation)}
                if asked:
                    begin, end = int(asked[1]), min(int(asked[2] or size), size - 1)
                    data, headers["content-range"] = data[begin : end + 1], f"bytes {begin}-{end}/{size}"
                self._answer(206 if asked else 200, data, headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.lock:
            if self.path.startswith("/batch/"):
                self._delete_all(body.decode())
            elif self.path.startswith("/upload/"):
                self._upload(body)
            else:
                self._move()

    do_PUT = do_POST

    def do_DELETE(self):
        bucket, name, *_ = self._target()
        with self.server.lock:
            if self._allowed((bucket, name)):
                del self.server.objects[bucket, name]
                self._answer(204)

    def _upload(self, body):
        bucket, query = self._target()[0], self._query()
        if "upload_id" in query:  # a chunk of a resumable one
            name, parts = self.server.uploads[query["upload_id"]]
            parts.append(body)
            total = self.headers["content-range"].split("/")[1]
            size = sum(map(len, parts))
            if total == "*" or size < int(total):
                self._answer(308, headers={"range": f"bytes=0-{size - 1}"})
                return
            body = b"".join(parts)
        elif query["uploadType"] == "resumable":
            number = str(len(self.server.uploads))
            self.server.uploads[number] = query["name"], []
            location = f"{self.server.url}/upload/storage/v1/b/{bucket}/o?upload_id={number}"
            self._answer(200, headers={"location": location})
            return
        elif query["uploadType"] == "multipart":
            boundary = b"--" + re.search('boundary="(.+)"', self.headers["content-type"])[1].encode()
            _, about, rest = body.split(boundary, 2)
            name = json.loads(about.split(b"\n\n", 1)[1])["name"]
            body = rest.rsplit(b"\n" + boundary, 1)[0].split(b"\n\n", 1)[1]
        else:
            name = query["name"]
        if "ifGenerationMatch" not in query or self._allowed((bucket, name)):
            self._tell(200, self.server.put((bucket, name), body))

    def _move(self):
        """moveTo and rewriteTo, by which gcsfs renames and copies."""
        bucket, name, verb, target = self._target()
        if not self._allowed((bucket, name)):
            return
        data = self.server.objects[bucket, name][1]
        if verb == "moveTo":
            del self.server.objects[bucket, name]
            key = bucket, target.removeprefix("o/")
        else:
            key = tuple(target.removeprefix("b/").split("/o/"))
        described = self.server.put(key, data)
        self._tell(200, described if verb == "moveTo" else {"done": True, "resource": described})

    def _delete_all(self, body):
        parts = []
        for bucket, name in re.findall(r"DELETE /storage/v1/b/(\S+?)/o/([^\s?]+)", body):
            found = self.server.objects.pop((unquote(bucket), unquote(name)), None)
            parts.append(f"--x\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {204 if found else 404}\r\n\r\n")
        headers = {"content-type": "multipart/mixed; boundary=x"}
        self._answer(200, ("".join(parts) + "--x--").encode(), headers)

    def _listing(self, bucket):
        query, items, folders = self._query(), [], set()
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        begin, end = query.get("startOffset", ""), query.get("endOffset")
        for key in sorted(self.server.objects):
            name = key[1]
            if key[0] != bucket or not name.startswith(prefix) or name < begin or (end and name >= end):
                continue
            inner = name[len(prefix) :]
            if delimiter and delimiter in inner:
                folders.add(prefix + inner.split(delimiter)[0] + delimiter)
            else:
                items.append(self.server.described(key))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _allowed(self, key):
        """Whether the object is there in the generation that is asked for; if not, that was answered."""
        wanted = self._query().get("ifGenerationMatch")
        now = self.server.objects[key][0] if key in self.server.objects else 0
        if wanted is not None and int(wanted) != now:
            self._tell(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        elif now and self._query().get("ifGenerationNotMatch") == str(now):
            self._answer(304)
        elif now or wanted == "0":
            return True
        else:
            self._tell(404, {"error": {"code": 404, "message": f"No such object: {'/'.join(key)}"}})
        return False

    def _target(self):
        """(bucket, object, verb, object that it is moved to), those that are not there None."""
        self.server.requests.append((self.command, self.path))
        match = NAMES.fullmatch(urlsplit(self.path).path)
        return tuple(part and unquote(part) for part in match.groups())

    def _query(self):
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    def _tell(self, status, value):
        self._answer(status, json.dumps(value).encode(), {"content-type": "application/json"})

    def _answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    LoopbackBucket(int(sys.argv[1])).serve_forever()
