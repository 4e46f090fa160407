"""`icefs sessions`: the working trees of this machine.

group    the list, and the group that the others are in
given    the working tree and the options that several of them get
commit   commits the changes in an unmounted one
discard  gives up an unmounted one
prune    removes unmounted ones without changes
export   writes the changed files of an unmounted one to a directory
"""
