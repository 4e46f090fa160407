"""Imports every module of icefs once; Python leaves the bytecode of each, and of their imports, next to it."""

import importlib
import pkgutil

import icefs


def main() -> None:
    """Imports them all, but for those whose optional packages are not installed (dask, xarray)."""
    for module in pkgutil.walk_packages(icefs.__path__, "icefs."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as exc:
            if exc.name is None or exc.name.partition(".")[0] == "icefs":
                raise


if __name__ == "__main__":
    main()
