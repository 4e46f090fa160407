"""Notes about nodes that are whole and valid, and yet not what every reader finds.

consolidated  notes on consolidated metadata that disagrees with the nodes
root_group    the note on a tree without a group at its root
chunk_keys    notes on committed arrays whose chunk keys the official library does not read
"""
