"""The error a user is meant to read: one message that names the file or field and the way out."""


class DataPrepError(Exception):
    """Input, options or output that cannot be used. The command line prints it and exits with 1."""
