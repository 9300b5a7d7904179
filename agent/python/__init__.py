"""Python environments of the pip and uv fields, below the installers.

In order: :class:`.interpreter.Interpreters` probes the raylet's Python; :func:`.spec.parse_pip` and
:func:`.spec.parse_uv` validate a field; :func:`.request.read` reads it to the end on this node;
:func:`.shadow.build_shadow` makes, once per interpreter, what uv resolves against;
:func:`.resolve.resolve` finds the exact difference; :func:`.build.build` installs it as an overlay.
"""
