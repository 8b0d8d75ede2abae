"""A server of files on this machine, which also speaks as much of the Hub's language as is used."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Files(BaseHTTPRequestHandler):
    """Answers for files by path, and for models: ``/api/models/ID``, ``/ID/resolve/...``."""

    files: Mapping[str, bytes] = {}
    cut: Mapping[str, int] = {}
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        if with_body:
            self.asked.append(path)
        if path.startswith("/api/models/"):
            found = self._model(path.removeprefix("/api/models/").partition("/revision/")[0])
        else:
            found = self.files.get(_without_revision(path))
        if found is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(found)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(found).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(found[: self.cut.get(path, len(found))])

    def _model(self, name: str) -> bytes | None:
        own = {k.removeprefix(f"/{name}/"): v for k, v in self.files.items() if f"/{name}/" in k}
        siblings = [
            {
                "rfilename": file,
                "size": len(data),
                "lfs": {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 130,
                },
            }
            for file, data in own.items()
        ]
        found = {"id": name, "sha": COMMIT, "siblings": siblings}
        return json.dumps(found).encode() if own else None

    def log_message(self, *args: object) -> None:
        """Nothing: pytest's output is for failures."""


def _without_revision(path: str) -> str:
    name, resolve, rest = path.partition("/resolve/")
    return f"{name}/{rest.partition('/')[2]}" if resolve else path


@contextmanager
def serving(
    files: Mapping[str, bytes], cut: Mapping[str, int] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of these files, and the paths that were asked of it.

    Args:
        files: Path -> content; those of a model begin with its id.
        cut: Path -> bytes after which the connection is closed.
    """
    asked: list[str] = []
    kind = type("OwnFiles", (Files,), {"files": files, "cut": cut or {}, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
