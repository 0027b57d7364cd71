"""moto's server, with one repair: moto 5.2.5 hashes what KMS gets as a digest once more before it signs.

AWS signs the digest itself (MessageType DIGEST), and so does this double. Run: python moto_server.py PORT
"""

import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.utils import ECDSAPrivateKey
from moto.server import main

_HASHES = {"ECDSA_SHA_256": hashes.SHA256(), "ECDSA_SHA_384": hashes.SHA384()}


def sign_digest(self: ECDSAPrivateKey, message: bytes, signing_algorithm: str) -> bytes:
    return self.private_key.sign(message, ec.ECDSA(Prehashed(_HASHES[signing_algorithm])))


if __name__ == "__main__":
    if "--as-it-is" not in sys.argv:
        ECDSAPrivateKey.sign = sign_digest  # type: ignore[method-assign]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
