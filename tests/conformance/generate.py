"""Makes repositories with the official library: what another writer hands to icefs.

`generate_all(directory)` builds every scenario, each in the versions of the format that it applies to. Content is the
same in every run; ids and times are not. Each scenario is a function of (path, spec_version); its docstring says
what it is about.
"""

import warnings
from dataclasses import replace
from pathlib import Path

from tests.conformance import scenarios_history, scenarios_nodes, scenarios_virtual
from tests.conformance.official import GeneratedRepo, Scenario

_SCENARIOS: dict[Scenario, tuple[int, ...]] = {
    **scenarios_nodes.SCENARIOS,
    **scenarios_history.SCENARIOS,
    **scenarios_virtual.SCENARIOS,
}

NAMES: dict[str, tuple[Scenario, int]] = {
    f"{scenario.__name__.replace('_', '-')}-v{version}": (scenario, version)
    for scenario, versions in _SCENARIOS.items()
    for version in versions
}
"""Every repository's name, with the scenario and the version of the format; known without building anything."""


def generate(name: str, directory: Path) -> GeneratedRepo:
    """Builds one repository, in a subdirectory of `directory` called `name`."""
    scenario, version = NAMES[name]
    with warnings.catch_warnings():
        # zarr-python warns of data types that Zarr v3 has not standardised yet.
        warnings.simplefilter("ignore")
        return replace(scenario(directory / name, version), name=name)


def generate_all(directory: Path) -> list[GeneratedRepo]:
    """Builds every repository below `directory`, which exists; takes about three seconds."""
    return [generate(name, directory) for name in NAMES]
