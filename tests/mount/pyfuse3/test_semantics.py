from tests.mount.test_semantics import *
