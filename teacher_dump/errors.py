"""What can go wrong with a teacher, or with those who run it."""


class TeacherError(Exception):
    """A teacher that cannot be found or does not keep to the protocol."""


class ScaleOutError(Exception):
    """Workers that cannot be reached, died, or cannot do the work."""
