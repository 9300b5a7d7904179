"""The daemon: its two faces (the raylet's HTTP, gRPC), the manager, the installers, the command line."""
