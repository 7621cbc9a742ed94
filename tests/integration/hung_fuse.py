"""A real filesystem whose statfs can be made to hang: the least of FUSE, spoken on /dev/fuse by a thread."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from pathlib import Path

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_GETATTR, _STATFS, _INIT = 3, 17, 26
_MS_NOSUID_NODEV = 2 | 4
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class HungFuse:
    """Mounts at `path`. While `hang()` holds, statfs is not answered; `release()` answers what waits, and all after.

    Raises: OSError where FUSE may not be used here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = 0
        self._lock = threading.Lock()
        self._hung = False
        self._waiting: list[int] = []
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if _libc.mount(b"hung", bytes(path), b"fuse.dogwatch", _MS_NOSUID_NODEV, options.encode()) != 0:
            error = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(error, os.strerror(error), str(path))
        self._thread = threading.Thread(target=self._serve, name="hung fuse", daemon=True)
        self._thread.start()

    def hang(self) -> None:
        with self._lock:
            self._hung = True

    def release(self) -> None:
        with self._lock:
            self._hung = False
            waiting, self._waiting = self._waiting, []
        for unique in waiting:
            self._reply(unique, _statfs())

    def close(self) -> None:
        self.release()
        _libc.umount2(bytes(self.path), _MNT_DETACH)
        # Unmounting ends the connection; the server's read then fails.
        self._thread.join(10)
        os.close(self._fd)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, _, _, _, asker, _ = _IN.unpack_from(request)
            if opcode == _STATFS and not _ours(asker):
                # Others on this machine look at its mounts, too; this is not about them.
                self._reply(unique, _statfs())
            elif opcode == _STATFS:
                with self._lock:
                    self.asked += 1
                    if self._hung:
                        self._waiting.append(unique)
                        continue
                self._reply(unique, _statfs())
            elif opcode == _INIT:
                self._reply(unique, struct.pack("<IIIIHHII36x", 7, 31, 65536, 0, 12, 9, 65536, 1))
            elif opcode == _GETATTR:
                self._reply(
                    unique,
                    struct.pack("<QII6QIIIIIIIIII", 60, 0, 0, 1, *[0] * 5, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0),
                )
            elif opcode not in (2, 36, 42):  # forget, interrupt, batch forget: no answer is expected
                self._reply(unique, b"", error=errno.ENOSYS)

    def _reply(self, unique: int, body: bytes, *, error: int = 0) -> None:
        try:
            os.write(self._fd, _OUT.pack(_OUT.size + len(body), -error, unique) + body)
        except OSError:
            return  # whoever asked was killed


def _ours(thread: int) -> bool:
    return Path(f"/proc/self/task/{thread}").exists()


def _statfs() -> bytes:
    return struct.pack("<5Q4I24x", 1000, 500, 400, 100, 90, 4096, 255, 4096, 0)
