"""The version, in a module of its own for the host that installs alone."""

__version__ = "0.1.0"
