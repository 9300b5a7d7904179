"""The program that gets one file, run as the user whose file it will be.

``agent/fetch`` starts it (``python -I -m ray_envd.agent.fetcher``) for every URI but ``gcs://``. It is a
process of its own for three reasons. The libraries take credentials, proxies and certificates from
the environment of their process: here that is the raylet's, never the daemon's. A runtime env may name
credential files (a web identity token, a service account): here the kernel opens them as the user, so
that nobody has a root daemon send him somebody else's. And a download that hangs is ended by a signal.

The request is JSON in the variable ``RAY_ENVD_FETCH`` (a URI may hold a password, and an argument can be
read by every user): ``uri``, ``destination`` (null: only the validator is asked for), ``max_bytes``,
``asks``. The answer is lines of JSON on stdout: with ``asks`` first ``{"needs": n}`` (0: nobody knows), after
which it waits for a byte on stdin before it writes any, ``{"done": n, "total": n}`` while it goes on, at last
``{"result": {"sha256", "bytes", "validator"}}`` or ``{"error": {"kind", "cause", "remedy"}}``. Kinds are
``sink.Kind``.

Standard library only, and obstore where the URI asks for it. Nothing here imports the daemon's modules:
the start is part of every download (15 ms for a file, 45 ms for the rest).
"""
