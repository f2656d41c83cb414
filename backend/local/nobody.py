"""How root runs the embedded PostgreSQL, which refuses to run as root: as the user nobody."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

from backend.errors import CannotRun

if TYPE_CHECKING:
    from pathlib import Path


def run_by_nobody(program: Path, *needed: Path) -> list[str]:
    """Return the command by which root runs a program as the user nobody.

    If that user cannot read what the program needs (for example below /root), the program gets
    root's capability to ignore file permissions (CAP_DAC_OVERRIDE): PostgreSQL refuses user id 0,
    but not capabilities. The alternatives are to open those folders to everybody, or to keep
    programs and data elsewhere. Raises CannotRun without `setpriv`.
    """
    nobody = pwd.getpwnam("nobody")
    command = ["setpriv", "--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid)]
    command.append("--clear-groups")
    reaches = ["test", "-x", str(program)]
    for path in needed:
        reaches += ["-a", "-r", str(path)]
    try:
        reached = subprocess.run([*command, *reaches], capture_output=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise CannotRun("root needs the command setpriv to run PostgreSQL") from error
    if reached.returncode:
        # Without this bit, access(2) would ignore the capability and refuse.
        command += ["--securebits", "+no_setuid_fixup"]
        command += ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return command


def give_to_nobody(path: Path) -> None:
    """Make the user nobody the owner of a folder."""
    nobody = pwd.getpwnam("nobody")
    os.chown(path, nobody.pw_uid, nobody.pw_gid)
