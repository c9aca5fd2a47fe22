"""Stands between a command and a server it started: ends the server's whole process group when the command is gone.

Run as a script, with nothing of sailctl imported: `python guard.py SECONDS PROGRAM ARGUMENT …`. The command holds the
other end of standard input and never writes; however it ends, even killed, that end closes. A guard that is killed
takes the server with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run a program until it ends or standard input does; its exit code, 128 + N for one ended by signal N."""
    grace_s, argv = float(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever asks the group to end asks the server
        signal.signal(number, lambda *_: None)
    try:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_watch, args=(server, grace_s), daemon=True).start()
    code = server.wait()
    os.killpg(0, signal.SIGTERM)  # what it may have left behind
    return code if code >= 0 else 128 - code


def _watch(server: subprocess.Popen[bytes], grace_s: float) -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)  # what the server had started, and the guard itself


def _die_with_guard() -> None:
    """Linux only; elsewhere the pipe alone has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
