"""A double of Azure Key Vault, over TLS, and of the managed identity that gives tokens for it.

Run: azurekms_server.py PORT FOLDER. Written from Azure's documentation, it has not been compared with the service.
A key is what its name begins with (p256, p384, p521, k256, rsa2040, else an RSA key of 2048 bits). "disabled",
"forbidden", "nothing", "refusing" (to sign) and "failing" (when first asked) in a name do what they say; "odd" is one
of a list of answers, to a question for the key where the name begins so.
A file FOLDER/expired makes every token an expired one. The port of the identity, which speaks
plain http, stands in FOLDER/identity.
"""

import base64
import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

VAULT = "https://acme.vault.azure.net"
TOKEN = "token-of-a-test"
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "k256": ec.SECP256K1()}
HASHES = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "ES512": hashes.SHA512()}
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
KEYS: dict[tuple[str, str], Any] = {}
NEWEST: dict[str, str] = {}
FAILED: set[str] = set()
EC = {"kid": f"{VAULT}/keys/odd/1", "kty": "EC", "crv": "P-256"}
RSA = {"kid": f"{VAULT}/keys/odd/1", "kty": "RSA", "n": "AQAB" * 100}
ODD: list[Any] = [{}, [], {"key": []}, {"key": EC}, {"key": EC | {"x": "AQ", "y": "AQ"}}, {"key": RSA}]
ODD += [{"key": RSA | {"e": "Ag"}}, {"key": RSA | {"kty": "odd", "n": ""}}, {"key": {}}]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def octets(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def find(name: str, version: str) -> tuple[str, Any]:
    if name not in NEWEST:
        NEWEST[name] = os.urandom(16).hex()
        curve = CURVES.get(name.partition("-")[0])
        bits = int(name[3:7]) if name.startswith("rsa2") else 2048
        made = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, bits)
        KEYS[name, NEWEST[name]] = made
    version = version or NEWEST[name]
    return version, KEYS[name, version]


def described(name: str, version: str) -> dict[str, Any]:
    version, key = find(name, version)
    jwk: dict[str, Any] = {"kid": f"{VAULT}/keys/{name}/{version}"}
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        jwk |= {"kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"], "n": b64(octets(numbers.n, 256)), "e": "AQAB"}
    else:
        size = (key.curve.key_size + 7) // 8
        jwk |= {"kty": "EC", "key_ops": ["sign", "verify"], "crv": f"P-{key.curve.key_size}"}
        jwk |= {"crv": "P-256K"} if isinstance(key.curve, ec.SECP256K1) else {}
        jwk |= {"x": b64(octets(numbers.x, size)), "y": b64(octets(numbers.y, size))}
    return {"key": jwk, "attributes": {"enabled": True}}


def operate(name: str, version: str, operation: str, asked: dict[str, str]) -> dict[str, Any]:
    version, key = find(name, version)
    data = base64.urlsafe_b64decode(asked["value"] + "==")
    if operation == "sign":
        der = key.sign(data, ec.ECDSA(utils.Prehashed(HASHES[asked["alg"]])))
        size = (key.curve.key_size + 7) // 8
        result = b"".join(octets(n, size) for n in utils.decode_dss_signature(der))
    elif asked["alg"] == "RSA-OAEP-256":
        result = key.decrypt(data, OAEP)
    else:
        raise ValueError(asked["alg"])
    return {"kid": f"{VAULT}/keys/{name}/{version}", "value": b64(result)}


class Vault(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    def _answer(self, asked: dict[str, str]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or (self.folder / "expired").exists():
            challenge = 'Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"'
            return self._send(401, {"error": {"code": "Unauthorized"}}, challenge)
        _, _, name, *rest = urlsplit(self.path).path.rstrip("/").split("/")
        version, operation = [*rest, "", ""][:2]
        for word, status in (("forbidden", 403), ("disabled", 403), ("nothing", 404)):
            if word in name:
                return self._send(status, {"error": {"code": "Forbidden", "message": f"the key is {word}"}})
        if "failing" in name and name not in FAILED:
            FAILED.add(name)
            return self._send(503, {"error": {"code": "ServiceUnavailable"}})
        if "refusing" in name and operation:
            return self._send(400, {"error": {"code": "BadParameter"}})
        if "odd" in name and (operation or name.startswith("odd")):
            return self._send(200, ODD[int(name[-1])])
        try:
            value = operate(name, version, operation, asked) if operation else described(name, version)
        except Exception:
            return self._send(400, {"error": {"code": "BadParameter"}})
        return self._send(200, value)

    def _send(self, status: int, value: dict[str, Any], challenge: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        self.wfile.write(data)


class Identity(Vault):
    def _answer(self, asked: dict[str, str]) -> None:
        expires = int(time.time()) + 86400
        self._send(200, {"access_token": TOKEN, "expires_on": str(expires), "token_type": "Bearer", "resource": ""})


def main(port: str, folder: Path) -> None:
    Vault.folder = folder
    identity = ThreadingHTTPServer(("127.0.0.1", 0), Identity)
    (folder / "identity").write_text(str(identity.server_address[1]))
    threading.Thread(target=identity.serve_forever, daemon=True).start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Vault)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
