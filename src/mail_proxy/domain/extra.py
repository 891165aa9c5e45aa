"""Parts of this software that are installed only where they are asked for."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Say how, from a checkout or a wheel: on PyPI the name is somebody else's."""
    return f"pip install '.[{extra}]' in a checkout, or './genro_mail_proxy-….whl[{extra}]'"
