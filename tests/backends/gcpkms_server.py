"""A double of Google Cloud KMS: the calls that the product makes, over gRPC with TLS. Run: gcpkms_server.py PORT FOLDER

It is written from Google's own messages and documentation, and has not been compared with the service. A key is what
its name begins with (p256, k256, p384, ed25519, rsa, else symmetric). "disabled", "forbidden", "nothing", "busy",
"odd", "future" and "failing" (when first asked) in a name do what they say.
A file FOLDER/expired makes every credential an expired one.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1.types import CryptoKeyVersion, resources, service

SERVICE = "google.cloud.kms.v1.KeyManagementService"
MAKE: dict[str, tuple[str, Callable[[], Any]]] = {
    "p256": ("EC_SIGN_P256_SHA256", lambda: ec.generate_private_key(ec.SECP256R1())),
    "k256": ("EC_SIGN_P256_SHA256", lambda: ec.generate_private_key(ec.SECP256K1())),  # not what it says
    "p384": ("EC_SIGN_P384_SHA384", lambda: ec.generate_private_key(ec.SECP384R1())),
    "ed25519": ("EC_SIGN_ED25519", ed25519.Ed25519PrivateKey.generate),
    "rsa": ("RSA_SIGN_PSS_2048_SHA256", lambda: rsa.generate_private_key(65537, 2048)),
}
KEYS: dict[str, Any] = {}
FAILED: set[str] = set()


def kind(name: str) -> str | None:
    label = name.split("/cryptoKeys/")[1]
    return next((kind for kind in MAKE if label.startswith(kind)), None)


def private(name: str, context: grpc.ServicerContext) -> Any:
    found = kind(name)
    if found is None or "/cryptoKeyVersions/" not in name:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the key is not an asymmetric one")
    if name not in KEYS:
        KEYS[name] = MAKE[str(found)][1]()
    return KEYS[name]


def get_public_key(request: Any, context: grpc.ServicerContext) -> Any:
    public = private(request.name, context).public_key()
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    algorithm: int = CryptoKeyVersion.CryptoKeyVersionAlgorithm[MAKE[str(kind(request.name))][0]]
    if "future" in request.name:
        algorithm = 999
    return resources.PublicKey(pem=public.public_bytes(*form).decode(), algorithm=algorithm, name=request.name)


def asymmetric_sign(request: Any, context: grpc.ServicerContext) -> Any:
    key = private(request.name, context)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        if len(request.data) > 65536:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "data is too long")
        return service.AsymmetricSignResponse(signature=key.sign(request.data), name=request.name)
    digest, algorithm = {
        "p256": (request.digest.sha256, hashes.SHA256()),
        "p384": (request.digest.sha384, hashes.SHA384()),
    }[str(kind(request.name))]
    signature = key.sign(digest, ec.ECDSA(utils.Prehashed(algorithm)))
    return service.AsymmetricSignResponse(signature=signature, name=request.name)


def symmetric(name: str, context: grpc.ServicerContext) -> AESGCM:
    if kind(name) is not None:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the key is not a symmetric one")
    return AESGCM(hashlib.sha256(name.encode()).digest())


def encrypt(request: Any, context: grpc.ServicerContext) -> Any:
    aes, nonce = symmetric(request.name, context), os.urandom(12)
    sealed = nonce + aes.encrypt(nonce, request.plaintext, request.additional_authenticated_data)
    return service.EncryptResponse(ciphertext=sealed, name=request.name)


def decrypt(request: Any, context: grpc.ServicerContext) -> Any:
    aes, data = symmetric(request.name, context), request.ciphertext
    try:
        plain = aes.decrypt(data[:12], data[12:], request.additional_authenticated_data)
    except (InvalidTag, ValueError):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Decryption failed: verify that 'name' refers to the key")
    return service.DecryptResponse(plaintext=plain)


def guarded(folder: Path, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        token = dict(context.invocation_metadata()).get("authorization", "")
        if not str(token).startswith("Bearer ") or (folder / "expired").exists():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials")
        label = request.name.split("/cryptoKeys/")[1]
        for word, status in (
            ("forbidden", grpc.StatusCode.PERMISSION_DENIED),
            ("disabled", grpc.StatusCode.FAILED_PRECONDITION),
            ("nothing", grpc.StatusCode.NOT_FOUND),
            ("busy", grpc.StatusCode.RESOURCE_EXHAUSTED),
            ("odd", grpc.StatusCode.DATA_LOSS),
        ):
            if word in label:
                context.abort(status, f"{request.name} is {word}")
        if "failing" in label and label not in FAILED:
            FAILED.add(label)
            context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        return answer(request, context)

    return call


def main(port: str, folder: Path) -> None:
    def handler(answer: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            guarded(folder, answer), request_deserializer=request.deserialize, response_serializer=response.serialize
        )

    methods = {
        "GetPublicKey": handler(get_public_key, service.GetPublicKeyRequest, resources.PublicKey),
        "AsymmetricSign": handler(asymmetric_sign, service.AsymmetricSignRequest, service.AsymmetricSignResponse),
        "Encrypt": handler(encrypt, service.EncryptRequest, service.EncryptResponse),
        "Decrypt": handler(decrypt, service.DecryptRequest, service.DecryptResponse),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    pair = (folder / "tls.key").read_bytes(), (folder / "tls.pem").read_bytes()
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
