"""The HTTP layer of the service."""
