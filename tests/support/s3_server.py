"""An S3 server for tests: moto behind a front that is strict where moto is not.

The front verifies every signature on its own (SigV4, session tokens, clock), checks the
payload hash, makes conditional writes atomic, adds CRC-32 checksums to whole reads, and
injects faults on demand. It also plays the container and instance metadata endpoints.

    python s3_server.py [--port N] [--cert FILE --key FILE] [--log FILE]

prints its URL. Admin (never signed), under /_admin/:

    POST faults   [{"kind": ..., "method": "GET", "key": "regex", "query": "regex", "count": 1,
                    "skip": 0, "share": 1, ...}]
                   added to the list; the first that matches is used up. share: of the
                   requests that match, so many are hit, drawn by a fixed seed
    POST reset    forgets faults, log and settings
    POST settings {"clock_offset": s, "ignore_conditions": bool, "ignore_ranges": bool,
                   "region": "name", "public": bool, "creds_expire_in": s, "latency": s,
                   "uploads_age": s}   multipart uploads are listed as begun so much earlier
    POST bucket   {"name": ...}
    GET  log      what came in, one JSON object per line
    GET  container, GET imds/...       credentials

Kinds of fault:
    status    answer `status` with `code` and maybe `retry_after`; not applied
    lost      apply, then close the connection without an answer
    late      apply, then answer `status`
    reset     close the connection before anything is done (TCP reset)
    truncate  send the head and `after` bytes (or `after_share` of the body), then close
    cut       the same, but with a reset
    stall     send `after` bytes, then nothing for `seconds`
    delay     answer after `seconds`
    hold      answer when `event`, a threading.Event of this process, is set
    drip      send the body `after` bytes at a time, `seconds` apart
    corrupt   flip one bit of the body
"""

import argparse
import datetime
import hashlib
import hmac
import io
import json
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import zlib
import base64
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.test import run_wsgi_app

# Made up, for this server only.
KEYS = {
    "AKIDSTATIC": ("static-secret/with+odd=chars", None),
    "AKIDSESSION": ("session-secret", "session/token+of=tests=="),
}
LARGE = 16 << 20  # bytes of an object
SKEW_SECONDS = 15 * 60


def _quote(text, safe=""):
    return urllib.parse.quote(text, safe=safe + "-._~")


class Refused(Exception):
    def __init__(self, status, code, message=""):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def expected_signature(method, path, query, headers, signed, payload, date, region, secret):
    """SigV4 from what came over the wire; written apart from the C code on purpose."""
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True) if query else []
    canonical_query = "&".join(
        f"{k}={v}" for k, v in sorted((_quote(k), _quote(v)) for k, v in pairs)
    )
    canonical = "\n".join(
        [method, _quote(urllib.parse.unquote(path), "/"), canonical_query]
        + [f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed]
        + ["", ";".join(signed), payload]
    )
    scope = f"{date[:8]}/{region}/s3/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = ("AWS4" + secret).encode()
    for part in (date[:8], region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class State:
    def __init__(self):
        self.app = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()  # log, faults, settings
        self.write_lock = threading.RLock()  # conditional writes are atomic
        self.log_file = None
        self.reset()

    def reset(self):
        self.faults, self.log = [], []
        self.random = random.Random(1)
        self.begun = {}  # upload id -> when
        self.keys = dict(KEYS)
        self.n_issued = 0
        self.settings = {
            "clock_offset": 0, "ignore_conditions": False, "ignore_ranges": False,
            "region": None, "public": False, "creds_expire_in": 3600, "latency": 0,
            "uploads_age": 0,
        }

    def take_fault(self, method, path, query):
        with self.lock:
            for fault in self.faults:
                if fault.get("method") not in (None, method):
                    continue
                if not re.search(fault.get("key", ""), path):
                    continue
                if not re.search(fault.get("query", ""), query):
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                if self.random.random() >= fault.get("share", 1):
                    continue
                fault["count"] = fault.get("count", 1) - 1
                if fault["count"] <= 0:
                    self.faults.remove(fault)
                return dict(fault)
        return None

    def issue_keys(self):
        """Fresh temporary keys, as the metadata endpoints hand them out."""
        with self.lock:
            self.n_issued += 1
            n = self.n_issued
        name, secret, token = f"AKIDROLE{n}", f"role-secret-{n}", f"role-token-{n}"
        self.keys[name] = (secret, token)
        ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(
            seconds=self.settings["creds_expire_in"]
        )
        return {
            "Code": "Success", "AccessKeyId": name, "SecretAccessKey": secret, "Token": token,
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def expire_keys(self):
        for name in [k for k in self.keys if k.startswith("AKIDROLE")]:
            self.keys[name] = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None  # set per server

    def log_message(self, *args):
        pass

    # ---- in ----

    def handle_any(self):
        self.path_only, _, self.query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        if self.path_only.startswith("/_admin/"):
            return self.admin(self.path_only[len("/_admin/") :])
        entry = {
            "method": self.command, "path": self.path_only, "query": self.query,
            "headers": {k.lower(): v for k, v in self.headers.items()}, "bytes": length,
            "peer": self.client_address[1], "time": time.time(),
        }
        fault = self.state.take_fault(self.command, self.path_only, self.query)
        entry["fault"] = fault["kind"] if fault else None
        try:
            status, headers, body = self.answer(fault)
        except Refused as refused:
            status, headers, body = self.error(refused)
        except ConnectionError:
            status, headers, body = 0, [], b""
        entry["status"] = status
        self.note(entry)
        if status == 0:
            self.close_connection = True
            return None
        return self.send(status, headers, body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def note(self, entry):
        with self.state.lock:
            self.state.log.append(entry)
            if self.state.log_file:
                self.state.log_file.write(json.dumps(entry) + "\n")
                self.state.log_file.flush()

    def error(self, refused):
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{refused.code}</Code>'
            f"<Message>{refused.message or refused.code}</Message></Error>"
        ).encode()
        return refused.status, [("Content-Type", "application/xml")], body

    def answer(self, fault):
        kind = fault["kind"] if fault else None
        if self.state.settings["latency"]:
            time.sleep(self.state.settings["latency"])
        if kind == "reset":
            self.reset_connection()
            raise ConnectionError
        if kind == "status":
            status, headers, body = self.error(
                Refused(fault["status"], fault.get("code", "SlowDown"), fault.get("message", ""))
            )
            if "retry_after" in fault:
                headers.append(("Retry-After", str(fault["retry_after"])))
            return status, headers, body
        if kind == "delay":
            time.sleep(fault["seconds"])
        if kind == "hold":
            fault["event"].wait(60)
        self.verify()
        status, headers, body = self.forward()
        if kind == "lost":
            self.reset_connection()
            raise ConnectionError
        if kind == "late":
            return self.error(Refused(fault["status"], fault.get("code", "InternalError")))
        if kind == "corrupt" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        return status, headers, body

    # ---- signatures ----

    def verify(self):
        settings = self.state.settings
        given = self.headers.get("Authorization")
        if given is None:
            if settings["public"]:
                return
            raise Refused(403, "AccessDenied", "unsigned request")
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
            r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})", given)
        if not found:
            raise Refused(403, "AuthorizationHeaderMalformed", "bad Authorization header")
        name, day, region, signed, signature = found.groups()
        if name not in self.state.keys:
            raise Refused(403, "InvalidAccessKeyId")
        if self.state.keys[name] is None:
            raise Refused(400, "ExpiredToken", "the token has expired")
        secret, token = self.state.keys[name]
        headers = {k.lower(): v for k, v in self.headers.items()}
        date = headers.get("x-amz-date", "")
        self.verify_head(headers, date, day, signed.split(";"), token, region)
        payload = headers.get("x-amz-content-sha256", "")
        if re.fullmatch("[0-9a-f]{64}", payload):
            if hashlib.sha256(self.body).hexdigest() != payload:
                raise Refused(400, "XAmzContentSHA256Mismatch")
        elif not payload.startswith(("UNSIGNED-PAYLOAD", "STREAMING-")):
            raise Refused(400, "InvalidRequest", "no x-amz-content-sha256")
        want = expected_signature(self.command, self.path_only, self.query, headers,
                                  signed.split(";"), payload, date, region, secret)
        if not hmac.compare_digest(want, signature):
            raise Refused(403, "SignatureDoesNotMatch", "the signature is wrong")

    def verify_head(self, headers, date, day, signed, token, region):
        if signed != sorted(signed) or "host" not in signed:
            raise Refused(403, "AuthorizationHeaderMalformed", "bad SignedHeaders")
        if any(h.startswith("x-amz-") and h not in signed for h in headers):
            raise Refused(403, "AccessDenied", "there are x-amz headers that are not signed")
        if not re.fullmatch(r"\d{8}T\d{6}Z", date) or date[:8] != day:
            raise Refused(403, "AccessDenied", "bad date")
        then = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(
            tzinfo=datetime.timezone.utc).timestamp()
        if abs(then - self.clock()) > SKEW_SECONDS:
            raise Refused(403, "RequestTimeTooSkewed", "the difference between the clocks is too large")
        if headers.get("x-amz-security-token") != token:
            raise Refused(400, "InvalidToken")
        home = self.state.settings["region"]
        if home and region != home:
            raise Refused(400, "AuthorizationHeaderMalformed", "wrong region")

    def clock(self):
        return time.time() + self.state.settings["clock_offset"]

    # ---- moto ----

    def forward(self):
        condition = self.headers.get("If-None-Match")
        writes = self.command in ("PUT", "POST", "DELETE")
        if not writes:
            return self.part_of_large() or self.moto()
        with self.state.write_lock:
            if condition == "*" and not self.state.settings["ignore_conditions"]:
                if self.moto("HEAD", "")[0] == 200:
                    raise Refused(412, "PreconditionFailed")
            return self.moto()

    def moto(self, method=None, query=None):
        method = method or self.command
        query = self.query if query is None else query
        # A key with "//" or "." parts must reach moto as it is.
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "SERVER_NAME": "127.0.0.1",
            "PATH_INFO": urllib.parse.unquote_to_bytes(self.path_only).decode("latin-1"),
            "RAW_URI": self.path, "REQUEST_URI": self.path, "QUERY_STRING": query,
            "SERVER_PORT": str(self.server.server_address[1]), "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr,
            "wsgi.input": io.BytesIO(self.body if method == self.command else b""),
            "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
            "CONTENT_LENGTH": str(len(self.body) if method == self.command else 0),
        }
        if self.headers.get("Content-Type"):
            environ["CONTENT_TYPE"] = self.headers["Content-Type"]
        drop = {"content-length", "content-type", "if-none-match"}
        if self.state.settings["ignore_ranges"]:
            drop.add("range")
        for name, value in self.headers.items():
            if name.lower() not in drop:
                environ["HTTP_" + name.upper().replace("-", "_")] = value
        try:
            parts, status, headers = run_wsgi_app(self.state.app, environ, buffered=True)
        except KeyError as missing:  # moto trips over an upload that is gone
            raise Refused(404, "NoSuchUpload", "the upload does not exist") from missing
        body = b"".join(parts)
        status = int(status.split()[0])
        if re.search("(^|&)uploads(=|&|$)", query) and status == 200:
            body = self.dated(body.decode()).encode()
        headers = [(k, v) for k, v in headers if not k.lower().startswith("x-amz-checksum")]
        if (method == "GET" and status == 200 and not self.query
                and self.headers.get("x-amz-checksum-mode") == "ENABLED"):
            crc = base64.b64encode(struct.pack(">I", zlib.crc32(body))).decode()
            headers += [("x-amz-checksum-crc32", crc), ("x-amz-checksum-type", "FULL_OBJECT")]
        return status, headers, body

    def part_of_large(self):
        """A range of a large object: moto itself reads the whole object for each. None: let moto answer."""
        if (self.command != "GET" or self.query or not self.headers.get("Range")
                or self.state.settings["ignore_ranges"]):
            return None
        status, headers, _ = self.moto("HEAD")
        found = {name.lower(): value for name, value in headers}
        place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", found.get("content-range", ""))
        if status != 206 or not place or int(place[3]) < LARGE:
            return None
        bucket, _, name = urllib.parse.unquote(self.path_only).lstrip("/").partition("/")
        key = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].head_object(bucket, name)
        if not key or key.etag != found.get("etag"):  # it was replaced in between
            return None
        first, last = int(place[1]), int(place[2])
        with key.lock:
            key._value_buffer.seek(first)
            body = key._value_buffer.read(last + 1 - first)
        return status, headers, body

    def dated(self, xml):
        """Moto says that all uploads began in 2010."""
        begun = self.state.begun
        if self.command == "POST":
            begun[re.search("<UploadId>(.*?)</UploadId>", xml)[1]] = time.time()

        def date(found):
            then = begun.get(re.search("<UploadId>(.*?)</UploadId>", found[0])[1], 0)
            then = time.gmtime(then - self.state.settings["uploads_age"])
            return re.sub("(?<=<Initiated>).*?(?=<)", time.strftime("%Y-%m-%dT%H:%M:%S.000Z", then), found[0])

        return re.sub("<Upload>.*?</Upload>", date, xml, flags=re.S)

    # ---- out ----

    def reset_connection(self):
        """Makes the coming close a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def send(self, status, headers, body, fault):
        length = None
        self.send_response_only(status)
        self.send_header("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self.clock())))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "date", "connection", "server"):
                self.send_header(name, value)
        if self.state.settings["region"]:
            self.send_header("x-amz-bucket-region", self.state.settings["region"])
        self.send_header("Content-Length", length if length is not None else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.send_body(body, fault or {"kind": None})
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True

    def send_body(self, body, fault):
        kind, after = fault["kind"], fault.get("after", 0)
        if "after_share" in fault:
            after = int(len(body) * fault["after_share"])
        if kind in ("truncate", "cut", "stall"):
            self.wfile.write(body[:after])
            self.wfile.flush()
            if kind == "cut":
                self.reset_connection()
            if kind == "stall":
                time.sleep(fault["seconds"])
            self.close_connection = True
        elif kind == "drip":
            for i in range(0, len(body), after):
                self.wfile.write(body[i : i + after])
                self.wfile.flush()
                time.sleep(fault["seconds"])
        else:
            self.wfile.write(body)

    # ---- admin ----

    def admin(self, what):
        state = self.state
        if what == "faults":
            with state.lock:
                state.faults += json.loads(self.body)
            return self.plain(200, b"{}")
        if what == "reset":
            with state.lock:
                state.reset()
            return self.plain(200, b"{}")
        if what == "settings":
            state.settings.update(json.loads(self.body))
            return self.plain(200, b"{}")
        if what == "log":
            with state.lock:
                return self.plain(200, "".join(json.dumps(e) + "\n" for e in state.log).encode())
        if what == "expire":
            state.expire_keys()
            return self.plain(200, b"{}")
        if what == "bucket":
            self.command, self.query = "PUT", ""
            self.path = self.path_only = "/" + json.loads(self.body)["name"]
            self.body = b""
            status, _, body = self.moto()
            return self.plain(200 if status in (200, 409) else status, body)
        return self.metadata(what)

    def metadata(self, what):
        state = self.state
        token = self.headers.get("x-aws-ec2-metadata-token")
        if what == "container":
            if self.headers.get("Authorization") != "container-token":
                return self.plain(401, b"{}")
            return self.plain(200, json.dumps(state.issue_keys()).encode())
        if what == "imds/latest/api/token" and self.command == "PUT":
            return self.plain(200, b"imds-token")
        if what.startswith("imds/") and token != "imds-token":
            return self.plain(401, b"")
        if what == "imds/latest/meta-data/iam/security-credentials/":
            return self.plain(200, b"test-role")
        if what == "imds/latest/meta-data/iam/security-credentials/test-role":
            return self.plain(200, json.dumps(state.issue_keys()).encode())
        return self.plain(404, b"")

    def plain(self, status, body):
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class FrontServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError, TimeoutError)):
            super().handle_error(request, client_address)


class S3Server:
    """The server in a thread of this process: `with S3Server() as s3: s3.url`."""

    def __init__(self, port=0, cert=None, key=None, log_file=None):
        self.state = State()
        self.state.log_file = log_file
        handler = type("BoundHandler", (Handler,), {"state": self.state})
        self.http = FrontServer(("127.0.0.1", port), handler)
        self.scheme = "http"
        if cert:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True,
                                                   do_handshake_on_connect=False)
            self.scheme = "https"
        self.port = self.http.server_address[1]
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.http.shutdown()
        self.http.server_close()

    def make_bucket(self, name):
        environ_path = f"/{name}"
        environ = {
            "REQUEST_METHOD": "PUT", "SCRIPT_NAME": "", "PATH_INFO": environ_path,
            "RAW_URI": environ_path, "REQUEST_URI": environ_path, "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1", "SERVER_PORT": str(self.port),
            "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": f"127.0.0.1:{self.port}",
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr,
            "wsgi.input": io.BytesIO(b""), "wsgi.multithread": True,
            "wsgi.multiprocess": False, "wsgi.run_once": False, "CONTENT_LENGTH": "0",
        }
        run_wsgi_app(self.state.app, environ, buffered=True)

    def add_faults(self, *faults):
        with self.state.lock:
            self.state.faults += [dict(f) for f in faults]

    def reset(self):
        with self.state.lock:
            self.state.reset()

    @property
    def log(self):
        with self.state.lock:
            return list(self.state.log)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--log", help="request log, JSON lines")
    args = parser.parse_args()
    log_file = open(args.log, "a") if args.log else None
    with S3Server(args.port, args.cert, args.key, log_file) as server:
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
