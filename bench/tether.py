"""Ties a process to the life of its parent, then becomes the program it was given.

Run by path in a bare interpreter (`bench.process.start` does), as `tether.py PARENT_PID PROGRAM ARGUMENT...`.
The kernel kills the process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG; the setting
survives execve), so that even a launcher that got SIGKILL leaves nothing behind. It imports nothing of this
project.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"cannot tie {command[0]} to its parent: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the call: nobody would be left to send the signal.
    if os.getppid() != int(parent):
        sys.exit(f"the parent of {command[0]} is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
