"""TLS contexts for listeners and for connections upstream.

Contexts are made with explicit flags and never with `ssl.create_default_context`, whose
VERIFY_X509_STRICT (since Python 3.13) refuses certificates that documented Mender set-ups make.
"""

import ssl

_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


_NOBODYS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def forget(error: OSError) -> None:
    """Take out of OpenSSL's error queue of this thread what `error`, of a TLS socket, left there.

    With OpenSSL 3.5 and Python 3.13 an error of the system stays in it, and the next connection of
    the thread that merely would have to wait fails with that error in its place. ssl has no call
    for this, but clears the queue when it refuses ciphers.
    """
    if not isinstance(error, ssl.SSLError):
        try:
            _NOBODYS.set_ciphers("NONE-SUCH")
        except ssl.SSLError:
            pass


def server_context(certificate: str, key: str, minimum: str) -> ssl.SSLContext:
    """The context of a TLS listener; `certificate` is a PEM chain, `minimum` "1.0" to "1.3".

    Reads the files. Raises OSError and ssl.SSLError for what is wrong with them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if minimum in ("1.0", "1.1"):
        # OpenSSL 3 speaks these versions only at security level 0.
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = _VERSIONS[minimum]
    context.load_cert_chain(certificate, key)
    return context


def client_context(ca_file: str | None, insecure: bool) -> ssl.SSLContext:
    """The context for a connection to a server: the system's CAs, or `ca_file` instead of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # In the midst of a renegotiation a write waits for what the server says.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Set by some Pythons (Debian 12's), it makes a cut connection look like an orderly end.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        context.load_verify_locations(ca_file)
    else:
        context.set_default_verify_paths()
    return context


def storage_context(ca_file: str | None, insecure: bool) -> ssl.SSLContext:
    """Like `client_context`, but `ca_file` comes on top of the system's CAs: stores are public
    services as well as neighbours of a private server.
    """
    context = client_context(None, insecure)
    if ca_file is not None and not insecure:
        context.load_verify_locations(ca_file)
    return context
