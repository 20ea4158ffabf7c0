"""A server on this machine that speaks the Hub's HTTP API: repositories with branches, commits and LFS, in memory.

Clients find it through the environment variables of `LocalHub.environment`, set before huggingface_hub is imported.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, READ_TOKEN, USER = "hf_writer", "hf_reader", "someone"
LFS_SUFFIXES = {".safetensors", ".parquet", ".mp4", ".png", ".arrow"}


@dataclass(frozen=True)
class Blob:
    """A file's content, and whether the repository keeps it in LFS."""

    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """As the Hub names it: sha256 in LFS, git's sha1 otherwise."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    """Branches name commits, commits hold files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Blob], message: str) -> str:
        """A new commit on a branch; returns its hash."""
        listing = sorted((path, blob.oid) for path, blob in files.items())
        sha = hashlib.sha1(repr((len(self.commits), self.branches.get(branch), listing)).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str:
        """The commit that a branch or a hash names."""
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The content of every file of a revision."""
        return {path: blob.content for path, blob in self.commits[self.resolve(revision)].items()}


class HubError(Exception):
    """A request that the server refuses."""

    def __init__(self, status: int, code: str | None, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class LocalHub:
    """The server's state; `requests` records (method, path) of all requests.

    `fail(method, pattern, status, message)` lets the next request that matches fail. Uploads fail once more than
    `quota` bytes are stored.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[tuple[str, str, int, str]] = []
        self.quota: int | None = None
        self.url = ""

    def fail(self, method: str, pattern: str, status: int, message: str) -> None:
        """Refuses the next request whose method and path match."""
        self.failures.append((method, pattern, status, message))

    def environment(self, cache: object, token: str | None = TOKEN) -> dict[str, str]:
        """Environment variables of a client of this server, with a cache of its own."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HOME": str(cache),
        }
        return variables | ({"HF_TOKEN": token} if token else {"HF_TOKEN_PATH": f"{cache}/no_token"})

    def paths(self, method: str) -> list[str]:
        """Paths of the requests made with a method."""
        return [path for used, path in self.requests if used == method]


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A running server."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        path, query = url.path, parse_qs(url.query)
        body = self._read_body()
        self.hub.requests.append((self.command, path))
        try:
            for failure in self.hub.failures:
                method, pattern, status, message = failure
                if method == self.command and re.search(pattern, path):
                    self.hub.failures.remove(failure)
                    raise HubError(status, None, message)
            self.user = self._authenticate()
            for method, pattern, action in ROUTES:
                if (method == self.command or (method == "GET" and self.command == "HEAD")) and (
                    match := re.fullmatch(pattern, path)
                ):
                    return action(self, body=body, query=query, **match.groupdict())
            raise HubError(404, None, f"no such endpoint: {self.command} {path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def _authenticate(self) -> str | None:
        """None, "reader" or "writer"."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_TOKEN):
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return {TOKEN: "writer", READ_TOKEN: "reader"}.get(token)

    def _require_writer(self, repo: str) -> None:
        if self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        if self.user != "writer" or repo.split("/")[0] != USER:
            raise HubError(403, None, f"You don't have the rights to write to {repo}")

    def _repository(self, kind: str | None, repo: str) -> Repository:
        found = self.hub.repositories.get((_singular(kind), repo))
        if found is None or (found.private and self.user is None):
            raise HubError(401 if self.user is None else 404, "RepoNotFound", "Repository not found")
        return found

    def who_am_i(self, **_) -> None:
        if self.user is None:
            raise HubError(401, None, "Invalid username or password.")
        role = {"writer": "write", "reader": "read"}[self.user]
        self._json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def validate_yaml(self, body: bytes, **_) -> None:
        content = json.loads(body)["content"]
        errors = []
        if not re.match(r"---\n(.*\n)*?license: [a-z0-9.-]+\n(.*\n)*?---\n", content):
            errors.append({"message": "the metadata block is missing or names no license"})
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create_repository(self, body: bytes, **_) -> None:
        asked = json.loads(body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        self._require_writer(repo)
        key = (asked.get("type") or "model", repo)
        url = f"{self.hub.url}/{'' if key[0] == 'model' else key[0] + 's/'}{repo}"
        if key in self.hub.repositories:
            return self._json({"error": "You already created this repo", "url": url}, 409)
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repository = self.hub.repositories[key] = Repository(private=private)
        repository.commit("main", {".gitattributes": Blob(b"", False)}, "initial commit")
        self._json({"url": url, "name": repo})

    def create_branch(self, kind: str, repo: str, branch: str, body: bytes, **_) -> None:
        self._require_writer(repo)
        repository, branch = self._repository(kind, repo), unquote(branch)
        if branch in repository.branches:
            raise HubError(409, None, f"Reference refs/heads/{branch} already exists")
        start = (json.loads(body) if body else {}).get("startingPoint") or "main"
        repository.branches[branch] = repository.resolve(start)
        self._json({})

    def preupload(self, kind: str, repo: str, revision: str, body: bytes, **_) -> None:
        self._require_writer(repo)
        repository = self._repository(kind, repo)
        present = repository.commits[repository.resolve(unquote(revision))]
        answer = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if PurePosixPath(file["path"]).suffix in LFS_SUFFIXES else "regular"
            known = present.get(file["path"])
            oid = known.oid if known else None
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answer})

    def lfs_batch(self, kind: str | None, repo: str, body: bytes, **_) -> None:
        self._require_writer(repo)
        objects = []
        for item in json.loads(body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str, body: bytes, **_) -> None:
        stored = sum(map(len, self.hub.objects.values()))
        if self.hub.quota is not None and stored + len(body) > self.hub.quota:
            raise HubError(507, None, "Insufficient storage: your storage limit is reached")
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError(400, None, "content does not match its oid")
        self.hub.objects[oid] = body
        self._send(200, b"")

    def commit(self, kind: str, repo: str, revision: str, body: bytes, **_) -> None:
        self._require_writer(repo)
        repository, branch = self._repository(kind, repo), unquote(revision)
        if branch not in repository.branches:
            raise HubError(404, "RevisionNotFound", f"no branch {branch}")
        files, message = dict(repository.commits[repository.branches[branch]]), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
                case "deletedFile":
                    del files[value["path"]]
        sha = repository.commit(branch, files, message)
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def information(self, kind: str, repo: str, revision: str | None = None, **_) -> None:
        repository = self._repository(kind, repo)
        sha = repository.resolve(unquote(revision or "main"))
        siblings = [{"rfilename": path, "size": len(blob.content)} for path, blob in repository.commits[sha].items()]
        answer = {"_id": sha, "id": repo, "sha": sha, "private": repository.private, "siblings": siblings}
        self._json(answer | {"tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})

    def tree(self, kind: str, repo: str, revision: str, query: dict, folder: str | None = None, **_) -> None:
        repository = self._repository(kind, repo)
        files = repository.commits[repository.resolve(unquote(revision))]
        root = PurePosixPath(unquote(folder or ""))
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, found = {}, not folder
        for path, blob in files.items():
            if root not in PurePosixPath(path).parents:
                continue
            found = True
            below = PurePosixPath(path).relative_to(root).parts
            for depth in range(1, len(below) if recursive else min(len(below), 2)):
                name = str(root.joinpath(*below[:depth]))
                entries[name] = {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
                entries[name]["size"] = 0
            if recursive or len(below) == 1:
                entries[path] = _entry(path, blob)
        if not found:
            raise HubError(404, "EntryNotFound", f"{folder} does not exist")
        self._json(list(entries.values()))

    def resolve(self, kind: str | None, repo: str, revision: str, file: str, **_) -> None:
        repository = self._repository(kind, repo)
        sha = repository.resolve(unquote(revision))
        blob = repository.commits[sha].get(unquote(file))
        headers = {"X-Repo-Commit": sha, "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if blob is None:
            self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers |= {"ETag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.content))}
        if blob.lfs:
            headers["X-Linked-Etag"] = f'"{blob.oid}"'
        content, status = blob.content, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, headers)


def _singular(kind: str | None) -> str:
    return (kind or "models").rstrip("/").removesuffix("s")


def _entry(path: str, blob: Blob) -> dict:
    entry = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid[:40]}
    return entry | ({"lfs": {"oid": blob.oid, "size": entry["size"], "pointerSize": 134}} if blob.lfs else {})


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_PLAIN = r"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.who_am_i),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", r"/api/repos/create", _Handler.create_repository),
    ("POST", _REPO + r"/branch/(?P<branch>.+)", _Handler.create_branch),
    ("POST", _REPO + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", _PLAIN + r"\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]+)", _Handler.lfs_upload),
    ("POST", _REPO + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("GET", _REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", _REPO + r"(?:/revision/(?P<revision>[^/]+))?", _Handler.information),
    ("GET", _PLAIN + r"/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
