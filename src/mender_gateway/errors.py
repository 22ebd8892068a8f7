"""Our exceptions, flat, and the only mapping from an error to what a device is told.

Every error that can end a request before its answer's headers are out is a `GatewayError`; its
class attributes say status and default text. Errors have the shape of the Mender services:
``{"error": "…", "request_id": "…"}``.
"""


class GatewayError(Exception):
    """Ends a request with a status of the gateway's own."""

    status = 500
    text = "internal error"
    retry_after: int | None = None
    """Seconds for the Retry-After field, or None for no such field."""
    close = False
    """Whether the device's connection can serve no further request."""

    def __init__(self, text: str | None = None, detail: str | None = None) -> None:
        """`detail` is for the log alone: names and addresses that are no device's business."""
        self.public = text or self.text
        """What the device is told."""
        super().__init__(f"{self.public}: {detail}" if detail else self.public)


class BadRequest(GatewayError):
    """The request cannot be understood; its connection ends with the answer."""

    status = 400
    text = "bad request"
    close = True


class BadLink(GatewayError):
    """A local artifact link lacks a parameter or has a malformed one."""

    status = 400
    text = "malformed artifact link"


class Unauthorized(GatewayError):
    """The request does not prove what it claims."""

    status = 401
    text = "unauthorized"


class Forbidden(GatewayError):
    """The gateway refuses: a wrong or expired link, a host that is not whitelisted."""

    status = 403
    text = "forbidden"


class NotFound(GatewayError):
    """The gateway does not let this path through."""

    status = 404
    text = "not found"


class MethodNotAllowed(GatewayError):
    """An endpoint of the gateway's own does not know the method."""

    status = 405
    text = "method not allowed"


class RequestTimeout(GatewayError):
    """The device did not finish its request in time."""

    status = 408
    text = "request timeout"
    close = True


class PreconditionFailed(GatewayError):
    """A condition of the request does not hold for the artifact (RFC 9110 15.5.13)."""

    status = 412
    text = "precondition failed"


class BodyTooLarge(GatewayError):
    """A request body is larger than the bound for bodies that are rewritten."""

    status = 413
    text = "request body too large"
    close = True


class RangeNotSatisfiable(GatewayError):
    """A Range starts behind the end of the artifact (RFC 9110 15.5.17)."""

    status = 416
    text = "range not satisfiable"

    def __init__(self, length: int | None) -> None:
        super().__init__()
        self.length = length
        """The artifact's bytes, None when unknown."""


class HeadTooLarge(GatewayError):
    """Request line and header fields are larger than the bound."""

    status = 431
    text = "request header fields too large"
    close = True


class BadGateway(GatewayError):
    """The upstream or the storage cannot be reached, or answers what cannot be passed on."""

    status = 502
    text = "upstream unreachable"


class Overloaded(GatewayError):
    """A bound of the gateway is reached; the device may try again."""

    status = 503
    text = "gateway overloaded"
    retry_after = 5


class GatewayTimeout(GatewayError):
    """The upstream or the storage did not answer in time."""

    status = 504
    text = "upstream timeout"


class ConfigError(Exception):
    """A setting is missing, of the wrong type or unusable; one line names key path and value."""
