"""What flows and the numerical core are both tested with."""

from tests.core.conftest import tiny_store

__all__ = ["tiny_store"]
