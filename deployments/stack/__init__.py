"""The local stack: every service on loopback, without containers and without root. `make up`, `make down`."""

from deployments.stack.stack import Stack

__all__ = ["Stack"]
