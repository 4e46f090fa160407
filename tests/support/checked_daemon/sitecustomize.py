"""Is imported by a daemon that has this directory on its PYTHONPATH, before anything else; see `tree_checks`."""

from tests.support.tree_checks import check_every_change

check_every_change()
