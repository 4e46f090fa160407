"""`scripts/check_imports.py` finds the imports that it is there for, and mends the first kind."""

import subprocess

import pytest

from scripts.check_imports import check, fix, read_tree


@pytest.fixture
def tree(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)

    def make(**files):
        for name, text in files.items():
            path = tmp_path / "icefs" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def faults(root, exceptions=()):
    return list(check(read_tree(root), dict.fromkeys(exceptions, "")))


def test_a_name_is_imported_from_where_it_is_defined(tree):
    root = tree(
        a="import os\nclass Name: ...\n",
        b="from icefs.a import Name\nx: Name\n",
        c="from icefs.b import Name, x\nfrom icefs.a import os\n",
    )
    assert faults(root) == [
        "icefs/c.py:1: Name of icefs.b is defined elsewhere: icefs.a.Name",
        "icefs/c.py:2: os of icefs.a is defined elsewhere: os",
    ]
    fix(read_tree(root))
    assert faults(root) == []
    assert (root / "icefs/c.py").read_text() == "from icefs.b import x\nfrom icefs.a import Name\nimport os\n"


def test_a_name_is_not_reached_through_a_module_that_imported_it(tree):
    root = tree(a="class Name: ...\n", b="from icefs.a import Name\n", c="from icefs import b\nx = b.Name()\n")
    assert faults(root) == ["icefs/c.py:2: Name of icefs.b is defined elsewhere: icefs.a.Name"]


def test_the_interface_hands_names_on(tree):
    root = tree(a="class Name: ...\n", __init__="from icefs.a import Name\n", c="from icefs import Name\n")
    assert faults(root) == []


@pytest.mark.parametrize("line", ["from icefs.b import y", "def f():\n    from icefs.b import y"])
def test_modules_do_not_import_each_other_not_even_late(tree, line):
    found = faults(tree(a=f"{line}\nx = 1\n", b="from icefs.a import x\ny = 1\n"))
    assert len(found) == 1
    assert found[0].startswith("modules import each other: icefs.")


def test_no_import_is_for_type_checkers_alone(tree):
    root = tree(
        a="class A: ...\n", b="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from icefs.a import A\n"
    )
    assert faults(root) == ["icefs/b.py:3: imports icefs.a under TYPE_CHECKING"]
    assert faults(root, [("icefs.b", "icefs.a")]) == []
    gone = faults(root, [("icefs.b", "icefs.a"), ("icefs.a", "icefs.b")])
    assert gone == ["icefs.a no longer imports icefs.b under TYPE_CHECKING: remove the exception"]
