"""The one error that is shown to people without a traceback."""


class MienError(Exception):
    """Something the user can mend: the message names the file, row or setting and what to do."""
