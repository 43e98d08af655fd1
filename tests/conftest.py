"""Shapes and types of the numerical packages are checked in every test, and only there."""

from jaxtyping import install_import_hook

install_import_hook(["core.bayes", "core.meta", "core.verify"], "beartype.beartype")
