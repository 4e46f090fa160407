from tests.mount.test_posix import *
