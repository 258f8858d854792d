"""Old names of what is in ``pochade.data.progress`` and ``pochade.data.store`` now."""

from pochade.data.progress import each, progress_bar
from pochade.data.store import read_store, stamp, store_for

__all__ = ["each", "progress_bar", "read_store", "stamp", "store_for"]
