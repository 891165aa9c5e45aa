"""Requests that nobody thought of, made by schemathesis from the OpenAPI document: briefly here, or by `make fuzz`."""
