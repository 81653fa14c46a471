"""The one error that is the user's to fix."""


class UserError(ValueError):
    """Bad input: one line naming the field, the value, and what to do. The command line exits with 2."""
