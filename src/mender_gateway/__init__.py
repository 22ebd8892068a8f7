"""An open gateway between devices without internet access and a Mender Server."""

__version__ = "0.1.0"
