"""Names of images and challenges of registries, read as spec/bytecode-image.md says. A part of reader.py."""
import ipaddress, re

class Refused(Exception):
    """`stage` is the part that refuses: reference, scope, challenge, bytes, platform, kind, signature, layer, object or label."""
    def __init__(self, stage, why):
        super().__init__(f"{stage}: {why}")
        self.stage = stage

def need(condition, stage, why):
    if not condition:
        raise Refused(stage, why)

# References and scopes --------------------------------------------------------------------------------------------------------------
def digest(text, stage="reference"):
    need(re.fullmatch(r"sha256:[0-9a-f]{64}", text), stage, f"no digest: {text!r}")
    return text

def registry(text):
    match = re.fullmatch(r"(\[.*\]|[^:\[\]]*)(?::(.*))?", text)
    need(match, "reference", f"no host: {text!r}")
    host, port = match.groups()
    need(port is None or re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536, "reference", f"no port: {port!r}")
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise Refused("reference", f"no IPv6 address: {host!r}") from None
    else:
        label = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
        need(re.fullmatch(rf"{label}(?:\.{label})*", host) and len(host) <= 253, "reference", f"no host: {host!r}")
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.split(".")[-1]):
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                raise Refused("reference", f"no IPv4 address: {host!r}") from None
    return host if port is None else f"{host}:{port}"

def repository(text):
    part = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
    need(re.fullmatch(rf"{part}(?:/{part})*", text), "reference", f"no repository: {text!r}")
    return text

def tag_of(text):
    need(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", text), "reference", f"no tag: {text!r}")
    return text

def reference(text):
    host, slash, rest = text.partition("/")
    need(slash, "reference", "no registry")
    rest, at, sha = rest.partition("@")
    path, colon, tag = rest.partition(":")
    named = {"registry": registry(host), "repository": repository(path), "tag": tag_of(tag) if colon else None}
    named["digest"] = digest(sha) if at else None
    need(len(named["registry"]) + 1 + len(path) <= 255, "reference", "host and repository are too long")
    if not at and not colon:
        named["tag"] = "latest"
    return named

def name(ref):
    return f"{ref['registry']}/{ref['repository']}"

def canonical(ref):
    return name(ref) + (f":{ref['tag']}" if ref["tag"] else "") + (f"@{ref['digest']}" if ref["digest"] else "")

def scope(text):
    """(rank, matches, as it is printed); the highest rank is the most specific."""
    need("@" not in text, "scope", "names a digest")
    base = text.removesuffix("/**")
    need("*" not in base, "scope", "a wildcard elsewhere")
    host, slash, path = base.partition("/")
    try:
        host = registry(host)
        if not slash:
            return (0, 0), lambda ref: ref["registry"] == host, host
        if base != text:
            below = f"{host}/{repository(path)}/"
            return (1, len(below)), lambda ref: name(ref).startswith(below), below + "**"
        path, colon, tag = path.partition(":")
        whole = f"{host}/{repository(path)}"
        if not colon:
            return (2, 0), lambda ref: name(ref) == whole, whole
        return (3, 0), lambda ref: (name(ref), ref["tag"], ref["digest"]) == (whole, tag_of(tag), None), f"{whole}:{tag}"
    except Refused as error:
        raise Refused("scope", error) from None

# Challenges: RFC 9110, 11.6.1 -------------------------------------------------------------------------------------------------------
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
PARAMETER = re.compile(rf'({TOKEN})[ \t]*=[ \t]*("(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"|[^\s",=][^\s",]*)(?=[ \t,]|$)')

def challenges(header):
    """(scheme, parameters) of each challenge of a header until something cannot be read; the last one is then dropped."""
    found, at, separator = [], 0, re.compile(r"[ \t,]*")
    while (at := separator.match(header, at).end()) < len(header):
        if match := PARAMETER.match(header, at):
            if not found:
                return found
            value = re.sub(r"\\(.)", r"\1", match[2][1:-1]) if match[2][0] == '"' else match[2]
            found[-1][1].append((match[1].lower(), value))
        elif match := re.compile(rf"({TOKEN})(?:[ \t]+([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|$)))?(?=[ \t,]|$)").match(header, at):
            found.append((match[1], []))
        else:
            return found[:-1]
        at = match.end()
    return found

def challenge(headers):
    known = [(scheme.lower(), parameters) for header in headers for scheme, parameters in challenges(header)]
    for scheme, parameters in known:
        realms = [value for key, value in parameters if key == "realm"]
        if scheme == "bearer" and len(realms) == 1:
            return {"realm": realms[0], "service": dict(parameters).get("service")}
    need(any(scheme == "basic" for scheme, _ in known), "challenge", "neither Bearer nor Basic")
    return {"basic": True}
