"""ray-envd: prepares, caches and collects the runtime environments of Ray's workers.

The sources stand in ``agent/`` and ``cache/`` at the root of the repository; this folder only
gives them their importable names, ``ray_envd.agent`` and ``ray_envd.cache``.
"""

__version__ = "0.1.0"
