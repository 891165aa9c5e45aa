"""The HTTP client that callbacks and attachments share: bounded in time and size, guarded in what it reaches."""
