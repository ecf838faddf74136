#!/usr/bin/env python3
"""A second reader of bytecode images, written from spec/bytecode-image.md alone: it reads and verifies every vector beside it.

Standard library, and `openssl` for signatures. It reads no zstd and checks no certificates; of an object it reads the tables of ELF.
Usage: reader.py [DIRECTORY OF VECTORS]; exit code 1 if a vector is not read as it says."""
import base64, hashlib, json, pathlib, re, subprocess, sys, tempfile
from labels import DOCKER, MIB, OCI, compare, decompressed, elf, only_object, parse, read_label
from names import Refused, canonical, challenge, digest, name, need, reference, scope

SIGNATURES = 32
MANIFESTS = {OCI + "manifest.v1+json", DOCKER + "distribution.manifest.v2+json"}
INDEXES = {OCI + "index.v1+json", DOCKER + "distribution.manifest.list.v2+json"}
CONFIGS = {OCI + "config.v1+json", DOCKER + "container.image.v1+json"}
BUNDLE, IN_TOTO = "application/vnd.dev.sigstore.bundle", "application/vnd.in-toto+json"
BUNDLES = {BUNDLE + "+json;version=0.%d" % minor for minor in (1, 2, 3)} | {BUNDLE + ".v0.3+json"}

# Images: a layout, an index, a manifest ------------------------------------------------------------------------------------------------
class Layout:
    """An OCI image layout. Every byte is hashed when it is read."""
    def __init__(self, directory):
        self.directory = directory
        self.entries = parse((directory / "index.json").read_bytes(), "bytes")["manifests"]

    def blob(self, descriptor, limit):
        sha = digest(descriptor["digest"], "bytes")
        path = self.directory / "blobs" / "sha256" / sha[7:]
        need(path.is_file(), "bytes", f"{sha} is not there")
        data = path.read_bytes()
        need(len(data) == descriptor["size"] and len(data) <= limit, "bytes", f"{sha} has another size")
        need("sha256:" + hashlib.sha256(data).hexdigest() == sha, "bytes", f"{sha} has other bytes")
        return data

    def document(self, descriptor):
        document = parse(self.blob(descriptor, 4 * MIB), "bytes")
        both = "manifests" in document and ("layers" in document or "config" in document)
        need(document.get("schemaVersion") == 2 and not both, "bytes", "no manifest")
        kind = document.get("mediaType", descriptor["mediaType"])
        need(kind == descriptor["mediaType"] and kind in MANIFESTS | INDEXES, "bytes", f"a document of type {kind}")
        need(len(document.get("manifests", document.get("layers", []))) <= 64, "bytes", "too many entries")
        return document

    def named(self, wanted):
        return next((e for e in self.entries if e.get("annotations", {}).get("org.opencontainers.image.ref.name") == wanted), None)

def choose(index, host):
    for entry in index["manifests"]:
        platform = entry.get("platform", {})
        needs = entry.get("annotations", {}).get("io.bpfd.requires.kernel")
        least = re.fullmatch(r">=([0-9]+)(?:\.([0-9]+))?(?:\.[0-9]+)?", needs or "")
        met = needs is None or least and [int(least[1]), int(least[2] or 0)] <= host["kernel"]
        if (platform.get("os"), platform.get("architecture")) == ("linux", host["architecture"]) and met:
            return entry
    raise Refused("platform", "no variant fits")

# Signatures -------------------------------------------------------------------------------------------------------------------------
def unbase64(text):
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise Refused("signature", error) from None

def openssl_says(key, message, signature):
    with tempfile.TemporaryDirectory() as directory:
        files = [pathlib.Path(directory, part) for part in ("message", "signature")]
        files[0].write_bytes(message)
        files[1].write_bytes(signature)
        if "ED25519" in subprocess.run(["openssl", "pkey", "-pubin", "-in", key, "-noout", "-text"], capture_output=True, text=True).stdout:
            verb = ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", files[0], "-sigfile", files[1]]
        else:
            verb = ["dgst", "-sha256", "-verify", key, "-signature", files[1], files[0]]
        return subprocess.run(["openssl", *verb], capture_output=True).returncode == 0

def fingerprint(key):
    return hashlib.sha256(unbase64("".join(key.read_text().splitlines()[1:-1]))).digest()

def statement(payload, over, versions):
    said = parse(payload, "signature")
    need(said["_type"] in ["https://in-toto.io/Statement/" + version for version in versions], "signature", "another statement")
    subjects = [s for s in said["subject"] if "sha256:" + s["digest"].get("sha256", "") in over]
    need(subjects, "signature", "over something else")
    signs = said["predicateType"] == "https://sigstore.dev/cosign/sign/v1"
    return subjects[0].get("name") or None, None if signs else said["predicateType"]

def enveloped(envelope, over, keys, versions, hint=b""):
    need(envelope["payloadType"] == IN_TOTO and len(envelope["signatures"]) == 1, "signature", "an unusual envelope")
    payload = unbase64(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)
    maker = made_by(keys, message, unbase64(envelope["signatures"][0]["sig"]))
    need(len(hint) != 32 or hint == fingerprint(keys[maker]), "signature", "the hint is another key's")
    return maker, *statement(payload, over, versions)

def made_by(keys, message, signature):
    maker = next((name for name, key in keys.items() if openssl_says(key, message, signature)), None)
    need(maker, "signature", "none of these keys made it")
    return maker

def judged(layer, payload, over, keys):
    """(key, the name that was signed, predicate type) of one signature; `over` are the bytes of what it may be over, by digest."""
    kind, notes = layer["mediaType"], layer.get("annotations", {})
    if kind == "application/vnd.dev.cosign.simplesigning.v1+json":
        maker = made_by(keys, payload, unbase64(notes.get("dev.cosignproject.cosign/signature", "")))
        critical = parse(payload, "signature")["critical"]
        need(critical["type"] == "cosign container image signature", "signature", "another type")
        need(critical["image"]["docker-manifest-digest"] in over, "signature", "over something else")
        return maker, critical["identity"]["docker-reference"], None
    document = parse(payload, "signature")
    if kind == "application/vnd.dsse.envelope.v1+json":
        return enveloped(document, over, keys, ["v1", "v0.1"])
    need(document["mediaType"] in BUNDLES and "publicKey" in document["verificationMaterial"], "signature", "no bundle by a key")
    hint = document["verificationMaterial"]["publicKey"].get("hint", "")
    if "dsseEnvelope" in document:
        return enveloped(document["dsseEnvelope"], over, keys, ["v1"], base64.b64decode(hint))
    message = document["messageSignature"]
    sha = "sha256:" + unbase64(message["messageDigest"]["digest"]).hex()
    need(message["messageDigest"]["algorithm"] == "SHA2_256" and sha in over, "signature", "over something else")
    return made_by(keys, over[sha], unbase64(message["signature"])), None, None

def counts(ref, signed, identity):
    if identity == "any" or signed is None:
        return identity != "exact" or signed is not None
    try:
        signed = reference(signed)
    except Refused:
        return False
    return name(signed) == name(ref) and (identity != "exact" or ref["digest"] is not None or signed["tag"] == ref["tag"])

def signatures(layout, ref, over):
    """Every layer of every manifest of signatures over one of these."""
    for sha in over:
        tags = [layout.named(f"{name(ref)}:sha256-{sha[7:]}.{kind}") for kind in ("sig", "att")]
        for entry in [*filter(None, tags), *layout.entries]:
            manifest = layout.document(entry)
            if entry in tags or BUNDLE in manifest.get("artifactType", "") and manifest.get("subject", {}).get("digest") == sha:
                yield from ((layer, layout.blob(layer, MIB)) for layer in manifest["layers"])

def verify(layout, case, keys, schema):
    ref, host, rule = reference(case["reference"]), case["host"], case["require"]
    entry = layout.named(case["reference"])
    need(entry, "reference", "no such image")
    top = manifest = layout.document(entry)
    over = {entry["digest"]: layout.blob(entry, 4 * MIB)}
    if "manifests" in top:
        entry = choose(top, host)
        manifest = layout.document(entry)
        need("manifests" not in manifest, "bytes", "an index in an index")
        over[entry["digest"]] = layout.blob(entry, 4 * MIB)
    found, makers = list(signatures(layout, ref, over)), set()
    need(len(found) <= SIGNATURES, "signature", "too many")
    for layer, payload in found:
        try:
            maker, signed, predicate = judged(layer, payload, over, keys)
        except (Refused, KeyError, TypeError):
            continue
        if predicate == rule.get("predicate") and counts(ref, signed, rule.get("identity", "repository")):
            makers.add(maker)
    need(len(makers & set(rule["by"])) >= rule.get("threshold", 1), "signature", "not enough signatures count")
    need(manifest["config"]["mediaType"] in CONFIGS, "kind", manifest["config"]["mediaType"])
    need(len(manifest["layers"]) == 1, "kind", "not one layer")
    config, layer = parse(layout.blob(manifest["config"], MIB), "bytes"), manifest["layers"][0]
    data = only_object(decompressed(layer["mediaType"], layout.blob(layer, 16 * MIB)))
    generation, label = read_label(config.get("config", {}).get("Labels") or {}, schema)
    if label:
        compare(generation, label, data)
    return {"manifest": entry["digest"], "object": hashlib.sha256(data).hexdigest(), "endian": elf(data)["endian"],
            "labels": generation, "version": (label or {}).get("version"), "programs": sorted(elf(data)["programs"])}

# The vectors ------------------------------------------------------------------------------------------------------------------------
def main(here):
    failed = total = 0
    def check(what, read, expected, refused=None):
        nonlocal failed, total
        try:
            result = read()
            good = refused is None and result == expected
        except Refused as error:
            result, good = str(error), refused in (True, error.stage)
        total, failed = total + 1, failed + (not good)
        if not good:
            print(f"{what}: {result!r}, not {expected if refused is None else f'refused ({refused})'!r}")
    load = lambda file: json.loads((here / file).read_text())
    schema = load("../bytecode-label.schema.json")
    references, scopes, headers, labels, images = map(load, ("references.json", "scopes.json", "challenges.json", "labels.json", "images.json"))
    for case in references["parsed"]:
        def both(ref): return {**ref, "canonical": canonical(ref)}
        expected = {key: case[key] for key in ("registry", "repository", "tag", "digest", "canonical")}
        check(case["text"], lambda: both(reference(case["text"])), expected)
    for case in references["refused"]:
        check(case["text"], lambda: reference(case["text"]), None, "reference")
    for case in scopes["choices"]:
        def chosen(): return max(((rank, text) for rank, fits, text in map(scope, case["scopes"]) if fits(reference(case["reference"]))), default=(0, None))[1]
        check(case, chosen, case["choice"])
    for case in scopes["refused"]:
        check(case["text"], lambda: scope(case["text"]), None, "scope")
    for case in headers["chosen"]:
        check(case["headers"], lambda: challenge(case["headers"]), {key: value for key, value in case.items() if key != "headers"})
    for case in headers["refused"]:
        check(case["headers"], lambda: challenge(case["headers"]), None, "challenge")
    for case in labels["parsed"]:
        def written(): return (lambda g, l: (g, l and json.dumps(l, sort_keys=True, separators=(",", ":"), ensure_ascii=False)))(*read_label(case["labels"], schema))
        check(case["why"], written, (case["generation"], case.get("canonical")))
    for case in labels["refused"]:
        check(case["why"], lambda: read_label(case["labels"], schema), None, "label")
    keys = {key: here / "images" / "keys" / f"{key}.pub" for key in images["keys"]}
    for case in images["images"]:
        check(case["why"], lambda: verify(Layout(here / "images"), case, keys, schema), case.get("result"), case.get("refused"))
    print(f"{total - failed} of {total} vectors are read as they say")
    return failed > 0

if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else pathlib.Path(__file__).parent))
