"""Where the bytes of attachments come from: the message itself, files of this machine, URLs, and tenants' endpoints."""
