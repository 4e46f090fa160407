"""Imports every module of icefs once, which leaves the bytecode of each, and of all that they import, beside it."""

import importlib
import pkgutil

import icefs


def main() -> None:
    """Imports them all."""
    for module in pkgutil.walk_packages(icefs.__path__, "icefs."):
        importlib.import_module(module.name)


if __name__ == "__main__":
    main()
