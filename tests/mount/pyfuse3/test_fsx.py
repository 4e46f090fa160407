from tests.mount.test_fsx import *
