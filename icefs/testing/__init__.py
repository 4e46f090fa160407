"""What tests of programs that use repositories share; needs hypothesis, which icefs itself does not.

strategies   hypothesis's strategies for configurations, chunks and times
invariants   what holds of every history and every listing
"""
