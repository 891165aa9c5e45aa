"""A mail proxy: messages come in by HTTP, are written down, leave by SMTP, and what became of them is reported."""

__version__ = "0.1.0"
