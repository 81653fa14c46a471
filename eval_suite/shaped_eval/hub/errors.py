"""Errors between here and the Hub, each described in one line that says what to do."""

from __future__ import annotations

# statuses and phrases by which the Hub reports that a file or a repository is too large
NO_ROOM = (402, 413, 507)
NO_ROOM_WORDS = ("storage limit", "storage quota", "quota exceeded", "too large")


def hub_errors() -> tuple[type[Exception], ...]:
    """The exceptions that the client raises when a request fails or an argument is refused.

    The client wraps an error during the upload of a large file into a RuntimeError.
    """
    from huggingface_hub import errors

    return (errors.HfHubHTTPError, errors.HTTPError, OSError, ValueError, RuntimeError)


def hub_reason(error: Exception, endpoint: str) -> str:
    """One line for an exception of `hub_errors`: the status, the Hub's own words and the remedy."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, hub_errors()):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    words = " ".join(str(getattr(error, "server_message", None) or error).split())[:300]
    reply = words if status is None else f"{status}: {words}"
    if status in NO_ROOM or any(one in words.lower() for one in NO_ROOM_WORDS):
        return (
            f"the Hub has no room for it ({reply}): free some storage there, or use "
            "another repository"
        )
    if status == 401:
        return f"the Hub refuses the token ({reply}): run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"the Hub refuses access ({reply}): use a token that may write there"
    if status is not None:
        return f"the Hub answered {status} ({words})"
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return f"the client refuses the request ({words})"
    if isinstance(error, RuntimeError):
        return f"the upload failed ({words})"
    return f"{endpoint} cannot be reached ({type(error).__name__}: {words})"
