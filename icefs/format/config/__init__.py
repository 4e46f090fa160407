"""The configuration of a repository, and its two encodings.

values    the configuration: the official library's names, fields and defaults
manifest  configuration of manifests
storage   configuration of storage and of virtual chunk containers
types     the types of fields, each with its reader and writer
checked   values that check their fields when these are set
merge     one configuration over another
codec     configuration as FlexBuffers (spec 2) and as YAML (spec 1)
yaml      YAML as serde writes it
"""
