from tests.mount.test_kill_commits import *
