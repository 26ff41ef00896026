"""The proxy through which connections leave sandboxes: policy, names, bytes."""
