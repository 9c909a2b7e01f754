"""Claims about language models, one file each: the claim, how it is measured, and a control that must come out flat.

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
