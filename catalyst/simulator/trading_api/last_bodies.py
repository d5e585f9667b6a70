"""Last bodies: the last response of each GET request, which a stale response repeats."""

from typing import Final

MAX_BYTES: Final = 32 << 20  # of all bodies and paths; a busy day asks for gigabytes of bars and snapshots


class LastBodies:
    """The last body of each path with its query; the least recently written ones are forgotten beyond `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._by_path: dict[str, bytes] = {}
        self.size = 0  # bytes

    def __contains__(self, path: str) -> bool:
        return path in self._by_path

    def get(self, path: str) -> bytes | None:
        return self._by_path.get(path)

    def remember(self, path: str, body: bytes) -> None:
        """Store the body; a body that is larger than all that may be stored is not."""
        earlier = self._by_path.pop(path, None)
        if earlier is not None:
            self.size -= len(path) + len(earlier)
        if len(path) + len(body) > self._max_bytes:
            return
        self._by_path[path] = body
        self.size += len(path) + len(body)
        while self.size > self._max_bytes:
            oldest = next(iter(self._by_path))
            self.size -= len(oldest) + len(self._by_path.pop(oldest))
