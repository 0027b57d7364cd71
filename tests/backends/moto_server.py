"""moto's server, with repairs to what moto 5.2.5 does otherwise than AWS. Run: python moto_server.py PORT

moto hashes what KMS gets as a digest once more before it signs; it believes every session token, where AWS refuses an
expired one (here, the token "expired"); it uses keys that are disabled; and it never asks what kind of message that
is which it signs.
"""

import json
import sys
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey
from moto.server import main

_HASHES = {"ECDSA_SHA_256": hashes.SHA256(), "ECDSA_SHA_384": hashes.SHA384(), "ECDSA_SHA_512": hashes.SHA512()}


def sign_digest(self: ECDSAPrivateKey, message: bytes, signing_algorithm: str) -> bytes:
    return self.private_key.sign(message, ec.ECDSA(Prehashed(_HASHES[signing_algorithm])))


believing = KmsResponse.call_action


def call_action(self: Any) -> Any:
    refusal = None
    if self.headers.get("X-Amz-Security-Token") == "expired":
        refusal = "ExpiredTokenException"
    elif self._get_action() == "Sign" and self._get_param("MessageType") != "DIGEST":
        refusal = "ValidationException"
    elif self._get_action() in ("Encrypt", "Decrypt", "Sign", "GetPublicKey"):
        key = self.kms_backend.keys[self.kms_backend.get_key_id(self._get_param("KeyId"))]
        refusal = {"Disabled": "DisabledException", "PendingDeletion": "KMSInvalidStateException"}.get(key.key_state)
    if refusal is not None:
        return 400, {"status": 400}, json.dumps({"__type": refusal, "message": "as AWS does"})
    return believing(self)


if __name__ == "__main__":
    if "--as-it-is" not in sys.argv:
        ECDSAPrivateKey.sign = sign_digest  # type: ignore[method-assign]
        KmsResponse.call_action = call_action  # type: ignore[method-assign]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
