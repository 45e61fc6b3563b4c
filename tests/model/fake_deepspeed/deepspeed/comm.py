"""A single rank communicates with no other."""


def is_initialized() -> bool:
    return True
