"""A submission becomes queued messages: read, checked, given an identity and written down, or refused with a reason."""
