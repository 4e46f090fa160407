"""After setup no start of icefs compiles anything."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
import icefs.cli.main, icefs.cli.commands.import_
for module in list(sys.modules.values()):
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or ""
    if origin.endswith(".py"):
        print(origin)
"""


@pytest.mark.slow
def test_setup_leaves_the_bytecode_of_all_that_a_command_imports(tmp_path, monkeypatch):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    subprocess.run([sys.executable, ROOT / "scripts/import_all.py"], check=True, env=environment, cwd=ROOT)
    found = subprocess.run(
        [sys.executable, "-c", _LOADED, str(ROOT)], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    sources = [line for line in found.stdout.splitlines() if line.startswith(str(ROOT))]
    assert any("numpy" in source for source in sources)
    assert any(source.endswith("icefs/transfer/chunk_files.py") for source in sources)
    assert [source for source in sources if not os.path.exists(importlib.util.cache_from_source(source))] == []
