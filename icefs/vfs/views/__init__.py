"""Views of trees as directories and files of a mount, under `.icefs/views` and in a mount with `--view`.

sources      trees that can be viewed, each at its present version
working_hierarchy  the hierarchy of a branch with uncommitted changes
versions     one format of one tree: versions, and what was found in them
nodes        the directories and files of views, and which of them the kernel knows
refs_nodes   the directories of refs in a view of a whole repository
handles      open files and directories of views
view_tree    the tree of all views of a mount
front        a mount that shows views in place of Zarr keys
"""
