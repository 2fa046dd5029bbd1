"""File contents by their hash: an object store, a folder of one, or a git clone."""

import hashlib
import http.client
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_tools.sources.retry import NetworkRetries
from llama_scale.errors import InputError
from llama_scale.files import open_file

Read = Callable[[str, str], bytes]


@dataclass(frozen=True)
class UnusableContent(Exception):
    """A content that cannot be used; ``reason`` is what it is counted under."""

    reason: str


def open_store(address: str | None, limit: int) -> Read:
    """Return a function of (blob_id, content_id) that gives a file's bytes, checked by both.

    blob_id is the SHA-1 of the bytes, content_id the one that git gives them. The function raises UnusableContent:
    ``missing_content``, ``truncated_gzip``, ``hash_mismatch``, ``too_large`` (more than ``limit`` bytes).

    The address is s3://BUCKET/PREFIX (public, read by HTTPS), https://... or file://FOLDER, with a gzip file for each
    blob_id; or git:PATH of a clone that has the objects.

    Raises:
        InputError: The address is missing, of no known kind or not there.
    """
    kind, _, rest = (address or "").partition(":")
    if kind == "git":
        read_raw = _git_reader(Path(rest))
    elif kind == "file":
        folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path))
        if not folder.is_dir():
            raise InputError(f"store: {folder}: no such folder")
        most = 2 * limit + (1 << 16)  # what is packed is hardly longer than what is in it
        read_raw = _decompressing(lambda blob: _read_first(most, folder / f"{blob}.gz", folder / blob), limit)
    elif kind in ("https", "http", "s3"):
        if kind == "s3":
            bucket, _, prefix = rest.removeprefix("//").partition("/")
            address = f"https://{bucket}.s3.amazonaws.com/{prefix}"
        read_raw = _decompressing(lambda blob: _download(f"{address.rstrip('/')}/{blob}"), limit)
    else:
        problem = f"expected s3://, https://, file:// or git:PATH, found {address!r}"
        raise InputError(f"store: {problem}; the rows of this source have no contents, only their hashes")

    def read(blob_id: str, content_id: str) -> bytes:
        content = read_raw(blob_id, content_id)
        if len(content) > limit:
            raise UnusableContent("too_large")
        is_blob = kind == "git" or hashlib.sha1(content).hexdigest() == blob_id
        if not is_blob or git_hash(content) != content_id:
            raise UnusableContent("hash_mismatch")
        return content

    return read


def git_hash(content: bytes) -> str:
    """Return the id that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _decompressing(fetch: Callable[[str], bytes], limit: int) -> Read:
    def read(blob_id: str, content_id: str) -> bytes:
        packed = fetch(blob_id)
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            content = inflate.decompress(packed, limit + 1)
        except zlib.error:
            raise UnusableContent("truncated_gzip") from None
        if not inflate.eof and len(content) <= limit:
            raise UnusableContent("truncated_gzip")
        return content

    return read


def _read_first(most: int, *paths: Path) -> bytes:
    for path in paths:
        try:
            with open_file(path) as file:
                return file.read(most)
        except OSError:
            continue
    raise UnusableContent("missing_content")


def _download(url: str) -> bytes:
    """Return the body of a URL, trying again after a failure of the network."""
    retries = NetworkRetries()
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            if error.code in (403, 404, 410):
                raise UnusableContent("missing_content") from None
            reason = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
        retries.failed(f"store: {url}", reason)


def _git_reader(clone: Path) -> Read:
    if not clone.is_dir():
        raise InputError(f"store: {clone}: no such clone")
    if not shutil.which("git"):
        raise InputError(f"store: git:{clone} needs git, which is not installed")
    command = ["git", "-C", str(clone), "cat-file", "--batch"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lock = threading.Lock()

    def read(blob_id: str, content_id: str) -> bytes:
        with lock:
            try:
                process.stdin.write(f"{content_id}\n".encode())
                process.stdin.flush()
                header = process.stdout.readline().split()
            except OSError:
                header = []
            if not header:
                raise InputError(f"store: {clone}: git cannot read it; is it a clone?")
            if not header[-1].isdigit():  # "ID missing", "ID ambiguous"
                raise UnusableContent("missing_content")
            content = process.stdout.read(int(header[-1]) + 1)[:-1]  # less the line feed after it
            if header[1] != b"blob":
                raise UnusableContent("missing_content")
            return content

    return read
