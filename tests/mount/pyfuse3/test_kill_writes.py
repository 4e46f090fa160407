from tests.mount.test_kill_writes import *
