"""The service as a whole: its process as a child, real SMTP servers, real databases, real callbacks."""
