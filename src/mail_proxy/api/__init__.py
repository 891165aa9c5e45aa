"""The service over HTTP: routes, who may call them, and how answers look."""
