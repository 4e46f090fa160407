from tests.mount.test_writing import *
