"""The variables that Kubernetes puts into every container for each Service, told apart from settings.

A Service called `gmp`, or one whose name starts with `gmp-`, brings variables with the prefix of the settings, such as
`GMP_PORT=tcp://10.0.0.1:8000`.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"GMP_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z")
_PORT = re.compile(r"GMP_(\w+_)?PORT\Z")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def is_service_link(name: str, value: str) -> bool:
    """True for a variable that Kubernetes made for a Service."""
    return bool(_NAME.match(name) or (_PORT.match(name) and _ADDRESS.match(value)))
