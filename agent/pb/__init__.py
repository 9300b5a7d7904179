"""Generated from ``proto/`` by ``make proto``; do not edit the modules in this folder.

They register in a descriptor pool of their own: Ray has messages of the same names in protobuf's
default pool, and a program may import both Ray and our client.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()  # type: ignore[no-untyped-call]
