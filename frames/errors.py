"""Errors about the user's data."""


class DataError(Exception):
    """Data on disk is missing, damaged or contradicts itself.

    The message says what was found, what was expected and what to do.
    """
