"""The network of closed sets."""
