"""What there is to know of podman on this host, and how it is asked."""
