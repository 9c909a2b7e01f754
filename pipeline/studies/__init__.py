"""The article's claims, one file each: what it says, how that is measured, and the control that must come out flat.

A new study is a file here with CLAIM, LIMITS, NEEDS, Settings and ``measure``, its name below, and a recipe
``recipes/studies/NAME.yaml``.
"""

STUDIES = (
    "analogy",
    "in_context",
    "prompt_program",
    "disambiguation",
    "planning",
    "emergence",
    "dialogue",
    "pictures",
)
