"""The store: keys, objects, references, budget and collection.

Synchronous on purpose. Nothing here knows asyncio, gRPC or Ray; ``ray_envd.agent`` owns the event
loop and calls in from threads. Methods whose docstring says "loop-safe" touch memory only.
"""
