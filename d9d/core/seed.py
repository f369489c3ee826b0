"""Seeds that are pure functions of what they are for. Standard library only."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive the seed of a random stream from what names the stream.

    Streams of neighbouring names are unrelated, which sums such as `seed + epoch` are not: there, epoch 1 of seed 0
    would be epoch 0 of seed 1.

    Args:
        *parts: What names the stream, such as a run's seed, a purpose and an index.

    Returns:
        A number of 63 bits, the same on every machine.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
