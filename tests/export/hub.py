"""A local stand-in for the API of the Hugging Face Hub, which keeps the files that it receives.

It has the routes that `huggingface_hub` 2 calls to create a repository and a branch, to upload
files (large ones by LFS), to commit them, and to download a repository. Xet, which the real hub
prefers to LFS, is not among them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_writer"
LFS_SUFFIX = ".onnx"
"""Files with this suffix are large files."""


@dataclass
class Repository:
    """A repository: branch to its files, and the message of each commit."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    messages: list[str] = field(default_factory=list)

    def commit_id(self, branch: str) -> str:
        files = self.branches[branch]
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class Answer:
    status: int
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""


class Hub:
    """The content of the hub, and how it answers.

    Attributes:
        url: The value for HF_ENDPOINT.
        repositories: "OWNER/NAME" to repository.
        requests: Method and path of each request.
        failures: Text in "METHOD path" to the status that such requests get; 0 closes the
            connection without an answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.failures: dict[str, int] = {}
        self._large_files: dict[str, bytes] = {}

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> Answer:
        path = unquote(path.partition("?")[0])
        self.requests.append(f"{method} {path}")
        for text, status in self.failures.items():
            if text in self.requests[-1]:
                return Answer(status, {"error": "refused"})
        for route_method, pattern, handle in self._routes():
            if route_method == method and (match := re.fullmatch(pattern, path)):
                # The address of an upload is a secret of its own, as that of an object storage.
                if authorization != f"Bearer {TOKEN}" and "/storage/" not in path:
                    return Answer(401, {"error": "Invalid credentials in Authorization header"})
                known = {} if "id" not in match.groupdict() else self.repositories
                if known is self.repositories and match["id"] not in known:
                    return Answer(404, {"error": "Repository not found"})
                return handle(body, **match.groupdict())
        return Answer(501, {"error": f"the stand-in has no route {self.requests[-1]}"})

    def _routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        repository = r"(?P<id>[^/]+/[^/]+)"
        model, revision = f"/api/models/{repository}", r"(?P<revision>[^/]+)"
        return [
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", self._validate_readme),
            ("GET", f"{model}(/revision/{revision})?", self._info),
            ("GET", f"{model}/tree/{revision}", self._tree),
            ("POST", f"{model}/branch/{revision}", self._create_branch),
            ("POST", f"{model}/preupload/{revision}", self._choose_upload),
            ("POST", f"{model}/commit/{revision}", self._commit),
            ("POST", rf"/{repository}\.git/info/lfs/objects/batch", self._large_file_addresses),
            ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", self._store),
            ("GET", rf"/{repository}/resolve/{revision}/(?P<file>.+)", self._download),
            ("HEAD", rf"/{repository}/resolve/{revision}/(?P<file>.+)", self._download),
        ]

    def _create(self, body: bytes) -> Answer:
        document = json.loads(body)
        name = f"{document['organization']}/{document['name']}"
        answer = {"url": f"{self.url}/{name}"}
        if name in self.repositories:
            return Answer(409, {**answer, "error": "You already created this model repo"})
        self.repositories[name] = Repository(document.get("visibility") == "private")
        return Answer(200, answer)

    def _validate_readme(self, body: bytes) -> Answer:
        assert json.loads(body)["content"]
        return Answer(200, {"errors": [], "warnings": [{"message": "empty or missing metadata"}]})

    def _find(self, id: str, revision: str | None) -> tuple[Repository, str]:
        """Return a repository, and the branch that a name or the id of a commit stands for."""
        repository = self.repositories[id]
        commits = {repository.commit_id(branch): branch for branch in repository.branches}
        return repository, commits.get(revision or "main", revision or "main")

    def _info(self, body: bytes, id: str, revision: str | None) -> Answer:
        repository, branch = self._find(id, revision)
        sha = repository.commit_id(branch)
        return Answer(200, {"id": id, "private": repository.private, "sha": sha})

    def _tree(self, body: bytes, id: str, revision: str) -> Answer:
        repository, branch = self._find(id, revision)
        files = repository.branches[branch].items()
        entries = [{"type": "file", "path": p, "size": len(c), "oid": blob_id(c)} for p, c in files]
        return Answer(200, entries)

    def _create_branch(self, body: bytes, id: str, revision: str) -> Answer:
        branches = self.repositories[id].branches
        if revision in branches:
            return Answer(409, {"error": "Reference already exists"})
        branches[revision] = dict(branches["main"])
        return Answer(200, {})

    def _choose_upload(self, body: bytes, id: str, revision: str) -> Answer:
        stored = self.repositories[id].branches.get(revision)
        if stored is None:
            return Answer(404, {"error": "Revision not found"})
        answers = []
        for file in json.loads(body)["files"]:
            path, content = file["path"], stored.get(file["path"])
            is_large = path.endswith(LFS_SUFFIX)
            answer = {"path": path, "uploadMode": "lfs" if is_large else "regular"}
            if content is not None:
                answer["oid"] = sha256(content) if is_large else blob_id(content)
            answers.append({**answer, "shouldIgnore": False})
        return Answer(200, {"files": answers})

    def _large_file_addresses(self, body: bytes, id: str) -> Answer:
        objects = []
        for item in json.loads(body)["objects"]:
            address = {"upload": {"href": f"{self.url}/storage/{item['oid']}"}}
            known = item["oid"] in self._large_files
            objects.append(item if known else {**item, "actions": address})
        return Answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> Answer:
        assert sha256(body) == oid
        self._large_files[oid] = body
        return Answer(200)

    def _commit(self, body: bytes, id: str, revision: str) -> Answer:
        repository = self.repositories[id]
        files = repository.branches[revision]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._large_files[value["oid"]]
        commit = repository.commit_id(revision)
        return Answer(200, {"commitUrl": f"{self.url}/{id}/commit/{commit}", "commitOid": commit})

    def _download(self, body: bytes, id: str, revision: str, file: str) -> Answer:
        repository, branch = self._find(id, revision)
        content = repository.branches[branch][file]
        headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": repository.commit_id(branch)}
        return Answer(200, headers=headers, content=content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """Return the id that git gives to the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub on a port of this machine for a block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            authorization = self.headers.get("Authorization", "")
            answer = hub.answer(self.command, self.path, authorization, body)
            if not answer.status:
                self.close_connection = True
                return
            content = answer.content
            if answer.document is not None:
                content = json.dumps(answer.document).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
