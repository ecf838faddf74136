"""Labels, layers and objects, read as spec/bytecode-image.md says. A part of reader.py."""
import gzip, hashlib, io, json, re, struct, tarfile, zlib
from names import Refused, need

MIB, TAR_ENTRIES = 1 << 20, 64
OCI, DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
XDP = {"aborted", "drop", "pass", "tx", "redirect"}
TC = {"unspec", "ok", "reclassify", "shot", "pipe", "stolen", "queued", "repeat", "redirect", "trap"}

# JSON -------------------------------------------------------------------------------------------------------------------------------
def no_doubles(pairs):
    need(len(dict(pairs)) == len(pairs), "bytes", "a field twice")
    return dict(pairs)

def parse(data, stage):
    try:
        return json.loads(data, object_pairs_hook=no_doubles)
    except (ValueError, RecursionError, Refused) as error:
        raise Refused(stage, f"not JSON: {error}") from None

def texts(value):
    if isinstance(value, str):
        yield value
    for part in value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else []:
        yield from texts(part)

def printable(value):
    turns = set(map(chr, (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    return not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in turns for text in texts(value) for c in text)

# Labels -----------------------------------------------------------------------------------------------------------------------------
NAMES = {"programs": r"[A-Za-z0-9_.$]{1,255}", "maps": r"[A-Za-z0-9_.]{1,127}"}

def conforms(schema, value):
    """As much of JSON Schema as bytecode-label.schema.json uses."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(isinstance(value, kinds[t]) and not (t == "integer" and isinstance(value, bool)) for t in types):
            return False
    within = not isinstance(value, int) or schema.get("minimum", value) <= value <= schema.get("maximum", value)
    matches = not isinstance(value, str) or re.fullmatch(schema.get("pattern", ".*").strip("^$"), value, re.S)
    if not within or not matches or value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return False
    if isinstance(value, list):
        return len(value) <= schema.get("maxItems", len(value)) and all(conforms(schema.get("items", {}), v) for v in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return all(k in value for k in schema.get("required", [])) and all(conforms(known.get(k, {}), v) for k, v in value.items())
    return True

def pruned(schema, value):
    """Without unknown fields, nulls and empty lists; sets in the order of their words."""
    if isinstance(value, list):
        words = schema.get("items", {}).get("enum")
        return [word for word in words if word in value] if words else [pruned(schema.get("items", {}), part) for part in value]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        kept = {k: pruned(known[k], v) for k, v in value.items() if k in known and v is not None}
        return {k: v for k, v in kept.items() if v != [] or k in ("proceedOn", "arch")}
    return value

def read_label(labels, schema):
    """(generation, label): of the newest label that is there."""
    def document(key):
        need(len(labels[key].encode()) <= 64 << 10, "label", "too long")
        value = parse(labels[key], "label")
        need(printable(value), "label", "control characters")
        return value
    if "io.bpfd.bytecode.v1" in labels:
        label, generation = document("io.bpfd.bytecode.v1"), "bytecode"
    elif "io.ebpf.programs" in labels or "io.ebpf.maps" in labels:
        need("io.ebpf.programs" in labels, "label", "maps without programs")
        label, generation = {"schema": 1}, "ebpf"
        for kind in NAMES:
            listed = document("io.ebpf." + kind) if "io.ebpf." + kind in labels else {}
            need(isinstance(listed, dict), "label", "no object")
            label[kind] = [{"name": key, "type": value} for key, value in listed.items()]
    elif old := {key[8:]: value for key, value in labels.items() if key in
                 ("io.ebpf.bpf_function_name", "io.ebpf.section_name", "io.ebpf.program_type", "io.ebpf.program_name", "io.ebpf.filename")}:
        generation = "ebpf_single"
        need(printable(old), "label", "control characters")
        if set(old) == {"program_name"} or "program_type" not in old or not {"bpf_function_name", "section_name"} & set(old):
            raise Refused("label", "an old label is missing")
        label = {"schema": 1, "programs": []}
        if "bpf_function_name" in old:
            label["programs"] = [{"name": old["bpf_function_name"], "type": old["program_type"]}]
        if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", old.get("program_name", "")):
            label["name"] = old["program_name"]
        if "filename" in old:
            label["object"] = {"path": old["filename"]}
    else:
        return None, None
    need(isinstance(label, dict) and conforms(schema, label), "label", "not as its schema says")
    label = pruned(schema, label)
    for kind in NAMES:
        label[kind] = sorted(label.get(kind, []), key=lambda part: part["name"].encode())
        need(len({part["name"] for part in label[kind]}) == len(label[kind]), "label", f"the same twice in {kind}")
    for program in label["programs"]:
        verdicts = {"xdp": XDP, "tc": TC, "tcx": TC}.get(program.get("type"), XDP | TC) | {"dispatcher_return"}
        need(set(program.get("attach", {}).get("proceedOn", [])) <= verdicts, "label", "a verdict of another type")
    return generation, label

# Layers and objects -----------------------------------------------------------------------------------------------------------------
def decompressed(media_type, layer):
    need(len(layer) <= 16 * MIB, "layer", "too long")
    if media_type in (OCI + "layer.v1.tar", DOCKER + "image.rootfs.diff.tar"):
        return layer
    need(media_type in (OCI + "layer.v1.tar+gzip", DOCKER + "image.rootfs.diff.tar.gzip"), "layer", f"of type {media_type}")
    allowed = min(max(200 * len(layer), MIB), 32 * MIB)
    try:
        decoded = gzip.GzipFile(fileobj=io.BytesIO(layer)).read(allowed + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused("layer", error) from None
    need(len(decoded) <= allowed, "layer", "decodes to too much")
    return decoded

def only_object(tar):
    found, count, stream = [], 0, io.BytesIO(tar)
    try:
        with tarfile.open(fileobj=stream, mode="r:", format=tarfile.USTAR_FORMAT) as archive:
            for entry in archive:
                count += 1
                parts = entry.name.split("/")
                good = entry.name and not entry.name.startswith("/") and ".." not in parts and printable(entry.name)
                need(good, "layer", f"path {entry.name!r}")
                need(count <= TAR_ENTRIES, "layer", "too many entries")
                need(entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE), "layer", f"type {entry.type!r}")
                data = archive.extractfile(entry).read() if entry.isreg() else b""
                need(len(data) == entry.size, "layer", "cut short")
                if data.startswith(b"\x7fELF"):
                    need(len(data) <= 16 * MIB, "layer", "the object is too long")
                    found.append(data)
            end = archive.offset
    except tarfile.TarError as error:
        raise Refused("layer", error) from None
    need(not tar[end:].strip(b"\0"), "layer", "data behind the end of the tar")
    need(len(found) == 1, "layer", f"{len(found)} ELF files")
    return found[0]

def elf(data):
    """Byte order, licence, whether there are types, and the section of each program."""
    need(data[4:5] == b"\2" and data[5:6] in (b"\1", b"\2"), "object", "no 64-bit ELF")
    order = "<" if data[5] == 1 else ">"
    def unpack(form, at):
        need(at + struct.calcsize(order + form) <= len(data), "object", "cut short")
        return struct.unpack_from(order + form, data, at)
    kind, machine = unpack("HH", 16)
    need((kind, machine) == (1, 247), "object", "no relocatable BPF object")
    table, (count, names) = unpack("Q", 40)[0], unpack("HH", 60)
    headers = [unpack("IIQQQQIIQQ", table + 64 * at) for at in range(count)]
    def text(section, at):
        start = headers[section][4] + at
        return data[start:data.index(b"\0", start)].decode()
    sections = [text(names, header[0]) for header in headers]
    def content(wanted):
        return next((data[h[4]:h[4] + h[5]] for h, n in zip(headers, sections) if n == wanted and h[1] == 1), None)
    programs = {}
    for header in headers:
        for at in range(header[4], header[4] + header[5], 24) if header[1] == 2 else []:
            name_at, info, _, section = unpack("IBBH", at)
            if info & 15 == 2 and info >> 4 and 0 < section < count and not sections[section].startswith(".text"):
                programs[text(header[6], name_at)] = sections[section]
    licence = content("license")
    return {"endian": "little" if order == "<" else "big", "btf": content(".BTF") is not None,
            "license": licence and licence.split(b"\0")[0].decode(), "programs": programs}

def compare(generation, label, data):
    object_, said = elf(data), label.get("object", {})
    truth = {"sha256": hashlib.sha256(data).hexdigest(), "endian": object_["endian"], "btf": object_["btf"],
             "kernelLicense": object_["license"] or "none"}
    for key, value in truth.items():
        need(said.get(key, value) == value, "label", f"{key} is {value!r}, not {said.get(key)!r}")
    for program in label["programs"]:
        section = object_["programs"].get(program["name"])
        need(section is not None and program.get("section", section) == section, "label", f"program {program['name']!r}")
    if generation == "bytecode":
        need(len(label["programs"]) == len(object_["programs"]), "label", "a program is not listed")
