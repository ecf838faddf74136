"""Shows what runs on a host, and loads and unloads programs, through bpfd.

The code for bpfd's messages is not installed: it is made from the .proto files
of the API when the program starts, in a directory that goes with it.
"""

import argparse
import importlib
import pathlib
import sys
import tempfile
import uuid

import grpc
import grpc_tools
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).resolve().parents[2] / "proto"
PIECE = 256 * 1024  # A message of the API has at most 1 MiB.


def generate(directory):
    """Writes modules for the messages and services of bpfd.v1, and makes them importable."""
    files = [str(path) for path in sorted(PROTOS.glob("bpfd/v1/*.proto"))]
    google = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        ["protoc", f"-I{PROTOS}", f"-I{google}", f"--python_out={directory}", f"--grpc_python_out={directory}", *files]
    )
    if status != 0:
        sys.exit(f"error: protoc ended with {status} on {PROTOS}")
    sys.path.insert(0, directory)


def pages(call, request):
    """All pages of a list."""
    while True:
        page = call(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def show(bpfd):
    """Prints each link: its place in the chain, state, name, and where its program came from."""
    sources = {}
    apps = pages(bpfd.apps.ListApps, bpfd.app.ListAppsRequest())
    for app in (app for page in apps for app in page.apps):
        image = app.source.image
        sources[app.uid] = f"{image.reference} ({image.digest})" if image.reference else "a file"
    links = pages(bpfd.links.ListLinks, bpfd.link.ListLinksRequest())
    for link in (link for page in links for link in page.links):
        state = bpfd.link.LinkState.Name(link.state).removeprefix("LINK_STATE_")
        place = link.position if link.HasField("position") else "-"
        print(f"{place}\t{state}\t{link.name}\t{sources.get(link.app_uid, '?')}")


def load(bpfd, path, interface, priority):
    """Uploads an object and attaches its XDP program, both or nothing; prints the link's name."""
    data = path.read_bytes()
    pieces = (bpfd.app.UploadObjectRequest(chunk=data[at : at + PIECE]) for at in range(0, len(data), PIECE))
    uploaded = bpfd.apps.UploadObject(pieces)
    hook = bpfd.hook.Hook(xdp=bpfd.hook.XdpHook(interface=interface))
    request = bpfd.app.LoadRequest(
        request_id=str(uuid.uuid4()),
        name_hint=path.name.split(".")[0],
        object_sha256=uploaded.sha256,
        attach=[bpfd.hook.Attachment(hook=hook, priority=priority)],
    )
    for event in bpfd.apps.Load(request):
        for link in event.result.links:  # Messages about progress have none.
            print(link.name)


def unload(bpfd, name):
    """Detaches and forgets an app."""
    request = bpfd.app.UnloadRequest(request_id=str(uuid.uuid4()), apps=bpfd.app.AppNames(names=[name]))
    for link in bpfd.apps.Unload(request).links:
        print("detached", link)


class Bpfd:
    """A connection: the stubs of two services, and the modules of their messages."""

    def __init__(self, socket):
        for module in ["app", "hook", "link"]:
            setattr(self, module, importlib.import_module(f"bpfd.v1.{module}_pb2"))
        # Otherwise gRPC sends the socket's path as the name of the server, which is none to HTTP/2.
        channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.default_authority", "localhost")])
        self.apps = importlib.import_module("bpfd.v1.app_pb2_grpc").AppServiceStub(channel)
        self.links = importlib.import_module("bpfd.v1.link_pb2_grpc").LinkServiceStub(channel)


def explain(error):
    """What bpfd refused, why, and what to do: the last two are in the details of a status."""
    lines = [f"error: {error.details()}"]
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            lines += [f"{key}: {info.metadata[key]}" for key in ["cause", "hint"] if key in info.metadata]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", default="/run/bpfd/bpfd.sock", help="bpfd's socket")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("show", help="print what runs where")
    verb = verbs.add_parser("load", help="attach an XDP program")
    verb.add_argument("path", type=pathlib.Path, help="the compiled BPF program")
    verb.add_argument("interface")
    verb.add_argument("--priority", type=int, default=50)
    verbs.add_parser("unload", help="detach and forget an app").add_argument("name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        generate(directory)
        bpfd = Bpfd(given.socket)
        try:
            if given.verb == "show":
                show(bpfd)
            elif given.verb == "load":
                load(bpfd, given.path, given.interface, given.priority)
            else:
                unload(bpfd, given.name)
        except grpc.RpcError as error:
            sys.exit(explain(error))


if __name__ == "__main__":
    main()
