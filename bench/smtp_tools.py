"""Postfix on this machine, where it is installed: `smtp-sink` to send to, `smtp-source` to send with, and a relay.

The relay has a configuration, a queue and a port of its own in a temporary folder: what is installed in /etc is neither
read nor changed. It takes root, as Postfix does.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mail_proxy.cli.http_load import SIZE

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postfix/sbin"
_COUNTED = re.compile(rb"mesg=(\d+)")

_MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
daemon_directory = {daemons}
command_directory = {commands}
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.example
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
local_transport = error:there is nobody here
relayhost = [127.0.0.1]:{sink}
# As many as the account that it is compared with.
smtp_destination_concurrency_limit = {connections}
smtp_tls_security_level = none
smtpd_tls_security_level = none
# It waits a second now and then when more comes than goes.
in_flow_delay = 0
"""
_MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""


class NotInstalled(Exception):
    """Postfix is not here, or may not be run."""


@dataclass(frozen=True, slots=True)
class SmtpSink:
    """A running `smtp-sink`, which counts what it takes."""

    port: int
    file: Path

    @property
    def count(self) -> int:
        """How many messages it has taken."""
        with self.file.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 400, 0))
            found = _COUNTED.findall(file.read())
        return int(found[-1]) if found else 0


@contextmanager
def smtp_sink() -> Iterator[SmtpSink]:
    """Run one; raises `NotInstalled`."""
    command, port = _found("smtp-sink"), free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "count"
        with file.open("wb") as out:
            process = subprocess.Popen(
                [command, *user, "-c", "-m", "5000", f"127.0.0.1:{port}", "1000"], stdout=out, stderr=subprocess.DEVNULL
            )
        try:
            wait_for_port(port)
            yield SmtpSink(port, file)
        finally:
            process.kill()
            process.wait()


def smtp_source(port: int, messages: int, sessions: int) -> None:
    """Send so many messages over so many sessions, as fast as it goes; raises `NotInstalled`."""
    addresses = ["-f", "sender@bench.example", "-t", "user@example.net"]
    command = [_found("smtp-source"), "-s", str(sessions), "-m", str(messages), "-l", str(SIZE), *addresses]
    subprocess.run([*command, f"127.0.0.1:{port}"], check=True)


@contextmanager
def postfix(sink: int, connections: int) -> Iterator[int]:
    """Run a relay to the port of a sink and give its own; raises `NotInstalled`."""
    command = _found("postfix")
    if os.geteuid() != 0:
        raise NotInstalled("Postfix as a relay needs root")
    daemons = Path("/usr/lib/postfix/sbin") if Path("/usr/lib/postfix/sbin").is_dir() else Path("/usr/libexec/postfix")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        for each in ("etc", "spool", "data"):
            (folder / each).mkdir()
        shutil.chown(folder / "data", "postfix", "postfix")
        values = {"folder": folder, "daemons": daemons, "commands": Path(command).parent, "sink": sink, "port": port}
        (folder / "etc/main.cf").write_text(_MAIN.format(**values, connections=connections))
        (folder / "etc/master.cf").write_text(_MASTER.format(**values))
        control = [command, "-c", str(folder / "etc")]
        subprocess.run([*control, "start"], check=True, capture_output=True)
        try:
            wait_for_port(port)
            yield port
        finally:
            subprocess.run([*control, "stop"], check=True, capture_output=True)


def _found(command: str) -> str:
    found = shutil.which(command, path=_PATH)
    if found is None:
        raise NotInstalled(f"{command} is not installed; on Debian and Ubuntu it is in the package postfix")
    return found


def free_port() -> int:
    """Return a port of this machine where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    """Return when somebody listens there; raises `TimeoutError`."""
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on port {port}") from None
            time.sleep(0.02)
        else:
            return
