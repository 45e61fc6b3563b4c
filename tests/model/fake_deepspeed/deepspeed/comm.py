"""One rank has nobody to speak with."""


def is_initialized() -> bool:
    return True
