"""What both generators write with: names, small grammar, and how long a problem may be."""

# Of a question, and of a solution: tokens are what a run costs.
MAX_WORDS = 45

NAMES = {
    "she": "Mia Zoe Anna Lena Ruth Nora Ivy Clara Aisha Mei Priya Sofia Ella Grace Hana Lucy Maya Rosa Tara",
    "he": "Tom Ben Leo Omar Raj Ivan Noah Max Paul Sam Kofi Luis Hugo Finn Jack Ali Ken Peter Victor Diego",
}


def is_too_long(question: str, solution: str) -> bool:
    """Whether a question or its solution has more words than a problem may have."""
    return max(len(question.split()), len(solution.split())) > MAX_WORDS


def capitalize_first(text: str) -> str:
    """The text with a capital first letter, and the rest as it is."""
    return text[0].upper() + text[1:]


def add_article(noun: str) -> str:
    """The noun behind "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
