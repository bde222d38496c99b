#!/usr/bin/env python3
"""Reads a Credence store from docs/reference/sealing.md alone: no code of Credence is used.

usage: reader.py --database FILE (--kek FILE | --passphrase-file FILE
                 | --vault https://HOST:PORT --vault-ca FILE --vault-token-file FILE) [--slot NAME]
                 [--open CLASS/KIND/ID [--tenant T]]

Prints one JSON object: the slot that opened, data keys by state, the records under keys that are not active
(rows_on_old_key), how many records open, those that do not and why, and with --open the plaintext of one record as
hexadecimal. Ends with exit code 3 when no slot opens.
"""

import argparse
import base64
import hashlib
import hmac
import json
import sqlite3
import ssl
import struct
import sys
import urllib.error
import urllib.request
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER = 86
TAG = 16


class Refused(Exception):
    """A record does not open; the text says why."""


def associated_data(store, tenant, class_, kind, id_, version, key_id):
    fields = [b"\x01", store, tenant.encode(), class_.encode(), kind.encode(), id_.encode(),
              struct.pack(">Q", version), key_id]
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def key_of(record):
    if len(record) < HEADER + TAG or record[:4] != b"CRDS":
        raise Refused("not a sealed record")
    if record[4] != 1:
        raise Refused(f"format {record[4]}")
    if record[5] != 1:
        raise Refused(f"suite {record[5]}")
    return record[6:22]


def open_record(key, record, place):
    derived = HKDF(SHA256(), 64, salt=record[22:54], info=record[:54]).derive(key)
    if not hmac.compare_digest(derived[32:], record[54:HEADER]):
        raise Refused("commitment differs")
    try:
        return AESGCM(derived[:32]).decrypt(bytes(12), record[HEADER:], associated_data(*place, record[6:22]))
    except InvalidTag:
        raise Refused("altered, or in another place") from None


class Vault:
    """What has a key of its Transit engine decrypt."""

    def __init__(self, address, ca, token):
        self.address, self.token = address, token
        self.context = ssl.create_default_context(cafile=ca)

    def open_slot(self, wrapped, slot_id, key, authenticated):
        if wrapped[:6] != b"CRDS\x01\x05" or wrapped[6:22] != slot_id:
            raise Refused("not a slot of Transit, or of another slot")
        mount, name = key.rsplit("/", 1)
        body = json.dumps({"ciphertext": wrapped[26:].decode(),
                           "associated_data": base64.b64encode(authenticated).decode()}).encode()
        request = urllib.request.Request(f"{self.address}/v1/{mount}/decrypt/{name}", data=body,
                                         headers={"X-Vault-Token": self.token})
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=10) as answer:
                return base64.b64decode(json.load(answer)["data"]["plaintext"])
        except urllib.error.HTTPError as error:
            raise Refused(f"Vault answers {error.code}") from None


class Store:
    def __init__(self, path):
        self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.db.row_factory = sqlite3.Row
        row = self.db.execute("SELECT id, root_key FROM store").fetchone()
        self.id, self.root_id = row["id"], row["root_key"]
        self.root = None
        self.keys = {}

    def unlock(self, kek, passphrase, vault, name):
        for slot in self.db.execute("SELECT * FROM key_slots ORDER BY created, name"):
            if name and slot["name"] != name:
                continue
            key = None
            slot_id = str(uuid.UUID(bytes=slot["id"]))
            place = (self.id, "", "root", "key-slot", slot_id, 1)
            if slot["kind"] == "transit" and vault is not None:
                try:
                    self.root = vault.open_slot(slot["wrapped"], slot["id"], slot["key_id"],
                                                associated_data(*place, slot["id"]))
                except Refused:
                    continue
                return slot["name"]
            if slot["kind"] == "key-file" and kek is not None:
                key = kek
            elif slot["kind"] == "passphrase" and passphrase is not None:
                key = Argon2id(salt=slot["salt"], length=32, iterations=slot["passes"], lanes=slot["lanes"],
                               memory_cost=slot["memory_kib"]).derive(passphrase)
            if key is None:
                continue
            if key_of(slot["wrapped"]) != slot["id"]:
                continue
            try:
                self.root = open_record(key, slot["wrapped"], place)
            except Refused:
                continue
            return slot["name"]
        return None

    def data_keys(self):
        for row in self.db.execute("SELECT * FROM data_keys"):
            if key_of(row["wrapped"]) != self.root_id:
                raise Refused("data key is wrapped by another root key")
            place = (self.id, row["tenant"], row["class"], "data-key", str(uuid.UUID(bytes=row["id"])),
                     row["version"])
            self.keys[row["id"]] = (row, open_record(self.root, row["wrapped"], place))

    def open(self, row):
        key_id = key_of(row["record"])
        known = self.keys.get(key_id)
        if known is None or (known[0]["tenant"], known[0]["class"]) != (row["tenant"], row["class"]):
            raise Refused("names a key that is not one for its place")
        place = (self.id, row["tenant"], row["class"], row["kind"], row["id"], row["version"])
        return open_record(known[1], row["record"], place)

    def ledger(self):
        """The audit log's word on every record: (tenant, class, kind, id) -> (version, sha256)."""
        known = {}
        rows = self.db.execute("SELECT event FROM audit WHERE action IN ('record-seal', 'record-destroy')"
                               " ORDER BY sequence")
        for (text,) in rows:
            event = json.loads(text)
            place = (event["tenant"], *event["object"].split("/", 2))
            details = event["details"]
            if event["action"] == "record-seal":
                known[place] = (int(details["version"]), details["sha256"])
            else:
                known.pop(place, None)
        return known


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--kek")
    parser.add_argument("--passphrase-file")
    parser.add_argument("--vault")
    parser.add_argument("--vault-ca")
    parser.add_argument("--vault-token-file")
    parser.add_argument("--slot")
    parser.add_argument("--open")
    parser.add_argument("--tenant", default="default")
    wanted = parser.parse_args()
    kek = open(wanted.kek, "rb").read() if wanted.kek else None
    passphrase = open(wanted.passphrase_file, "rb").read().rstrip(b"\r\n") if wanted.passphrase_file else None

    store = Store(wanted.database)
    vault = None
    if wanted.vault:
        vault = Vault(wanted.vault, wanted.vault_ca, open(wanted.vault_token_file).read().strip())
    slot = store.unlock(kek, passphrase, vault, wanted.slot)
    if slot is None:
        print("no slot opens with this key", file=sys.stderr)
        return 3
    store.data_keys()
    states = {}
    for row, _ in store.keys.values():
        states[row["state"]] = states.get(row["state"], 0) + 1
    opened, refused, old, plaintext = 0, {}, 0, None
    found = {}
    for row in store.db.execute("SELECT * FROM sealed"):
        name = f"{row['class']}/{row['kind']}/{row['id']}"
        place = (row["tenant"], row["class"], row["kind"], row["id"])
        found[place] = (row["version"], hashlib.sha256(row["record"]).hexdigest())
        known = store.keys.get(row["record"][6:22])
        if known is not None and known[0]["state"] != "active":
            old += 1
        try:
            content = store.open(row)
        except Refused as error:
            refused[name] = str(error)
            continue
        opened += 1
        if wanted.open == name and row["tenant"] == wanted.tenant:
            plaintext = content.hex()
    ledger = store.ledger()
    differs = sorted("/".join(place) for place in found.keys() | ledger.keys() if found.get(place) != ledger.get(place))
    print(json.dumps({
        "slot": slot, "data_keys": states, "rows_on_old_key": old, "opened": opened, "refused": refused,
        "differs_from_audit": differs, "plaintext": plaintext,
    }))
    return 0


if __name__ == "__main__":
    sys.exit(main())
