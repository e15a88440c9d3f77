"""Whole files behind a URL: s3, gs, az, http(s). The only place with obstore.

Credentials come from the environment, from AWS profiles where boto3 is installed, or from the
instance's metadata; a URL that carries one is refused, because URLs are printed and stored.
"""

import os
from datetime import timedelta
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from store.errors import DamagedStoreError, RemoteError, UnsafeStoreError

WRITABLE = ("s3", "gs", "az")
SCHEMES = (*WRITABLE, "http", "https")
# Files under way at once.
CONNECTIONS = 8
# By what a service tells a file's versions apart; {} where there is no file.
Version = dict[str, str]
# How often a file that arrives with other bytes than it has is asked for.
ATTEMPTS = 3
# Of one request: to connect, between two pieces of an answer, and for all of it.
CONNECT_TIMEOUT = timedelta(seconds=10)
SILENCE_TIMEOUT = timedelta(seconds=20)
REQUEST_TIMEOUT = timedelta(minutes=10)
# A request that fails (5xx, timeout, cut line) is made again, no later than this after the first.
RETRIES = 5
RETRY_TIMEOUT = timedelta(seconds=60)
LONGEST_PAUSE = timedelta(seconds=5)

_process: int | None = None


def is_url(location: str) -> bool:
    """Whether a location is a URL and no local path."""
    return "://" in location


class Remote:
    """A folder behind a URL.

    The connection is opened when first used and belongs to one process: pickling drops it.

    Attributes:
        name: The URL, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            # The rest of the URL is not repeated: it may hold a password.
            raise RemoteError(
                f"{parts.scheme}://... cannot be used: expected one of {SCHEMES} and a place"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise RemoteError(
                f"the {parts.scheme} URL carries a user, a query or a fragment; give the plain "
                "folder, and credentials where the service's own tools look for them"
            )
        self.name = url.rstrip("/")
        self.writable = parts.scheme in WRITABLE
        self._handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def get(self, key: str, limit: int) -> bytes | None:
        """A file's bytes; None if there is no such file.

        Raises:
            UnsafeStoreError: It has more than ``limit`` bytes.
            RemoteError: The service does not give it, after several requests; or this process was
                forked after its parent had read from a URL.
        """
        return self.get_version(key, limit)[0]

    def get_version(self, key: str, limit: int) -> tuple[bytes | None, Version]:
        """A file's bytes, and by what the service knows this version of it; raises as ``get``."""
        try:
            answer = obstore.get(self._store(), key)
            if answer.meta["size"] > limit:
                raise UnsafeStoreError(
                    f"{self.name}/{key} has {answer.meta['size']} bytes; at most {limit} fit"
                )
            marks = {"e_tag": answer.meta["e_tag"], "version": answer.meta["version"]}
            version = {name: mark for name, mark in marks.items() if mark is not None}
            return bytes(answer.bytes()), version
        except FileNotFoundError:
            return None, {}
        except (BaseError, OSError) as error:
            raise self._explained(error, "read", key) from error

    def put(self, key: str, data: bytes) -> None:
        """Write a file: whole or not at all.

        Raises:
            RemoteError: The service does not take it, or is read-only.
            DamagedStoreError: It gives back other bytes.
        """
        for _ in range(ATTEMPTS):
            self._put(key, data, "overwrite")
            if self._reads_back(key, data):
                return
        raise DamagedStoreError(f"{self.name}/{key} reads back differently from what was sent")

    def put_version(self, key: str, data: bytes, replaced: Version) -> bool:
        """Write a file unless someone else has changed it meanwhile.

        Args:
            key: Its path.
            data: The new bytes.
            replaced: Of ``get_version``: what is there as far as the caller knows.

        Returns:
            Whether it was written.

        Raises:
            RemoteError: The service does not take it, or is read-only.
        """
        try:
            self._put(key, data, replaced or "create")
        except RemoteError as error:
            if isinstance(error.__cause__, AlreadyExistsError | PreconditionError):
                return False
            raise
        return True

    def _put(self, key: str, data: bytes, mode: Any) -> None:
        if not self.writable:
            raise RemoteError(f"{self.name} is read-only; write to one of {WRITABLE} or a folder")
        try:
            obstore.put(self._store(), key, data, mode=mode)
        except (BaseError, OSError) as error:
            raise self._explained(error, "write", key) from error

    def _reads_back(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, len(data)) == data
        except UnsafeStoreError:
            return False

    def _store(self) -> Any:
        _refuse_fork()
        if self._handle is None:
            self._handle = from_url(
                self.name,
                **_profile(self.name),
                client_options={
                    "allow_http": self.name.startswith("http://") or _plain_http_allowed(),
                    "connect_timeout": CONNECT_TIMEOUT,
                    "read_timeout": SILENCE_TIMEOUT,
                    "timeout": REQUEST_TIMEOUT,
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": RETRY_TIMEOUT,
                    "backoff": {"max_backoff": LONGEST_PAUSE},
                },
            )
        return self._handle

    def _explained(self, error: Exception, doing: str, key: str) -> RemoteError:
        # What follows the first line is the client's own debug dump.
        reason = str(error).strip().split("\n", 1)[0]
        return RemoteError(f"cannot {doing} {self.name}/{key}: {reason}")


def _profile(url: str) -> dict[str, Any]:
    """A provider of what the user's AWS profile says, which obstore itself does not read."""
    if not url.startswith("s3://") or "AWS_ACCESS_KEY_ID" in os.environ or not find_spec("boto3"):
        return {}
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    # Without a profile boto3 would ask the instance's metadata, as obstore does by itself.
    known = session.available_profiles and session.get_credentials()
    return {"credential_provider": Boto3CredentialProvider(session)} if known else {}


def _plain_http_allowed() -> bool:
    # Options given in code replace all that obstore would read from the environment.
    names = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in names)


def _refuse_fork() -> None:
    """The client's threads do not outlive a fork, and its requests would then wait for ever."""
    global _process
    if _process not in (None, os.getpid()):
        raise RemoteError(
            "this process was forked from one that has read from a URL, which obstore does not "
            "survive: start DataLoader workers with multiprocessing_context='forkserver' or 'spawn'"
        )
    _process = os.getpid()
