#!/usr/bin/env python3
"""Makes the box's images from files of this machine, as OCI archives for `ctr images import`: no registry, no daemon.

   images.py FOLDER [--coredns FILE] [--reviews FILE]    the images of the programs that are given
"""
import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile

USERS = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    "etc/group": b"root:x:0:\nnobody:x:65534:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}


def layer(files):
    """One layer, uncompressed; `files` maps a path in the image to a path here, or to its content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folders = set()
        for path, source in sorted(files.items()):
            for parent in reversed(list(parents(path))):
                if parent not in folders:
                    folders.add(parent)
                    entry = tarfile.TarInfo(parent)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(path)
            if isinstance(source, bytes):
                data, entry.mode = source, 0o644
            else:
                with open(source, "rb") as file:
                    data, entry.mode = file.read(), os.stat(source).st_mode & 0o777
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def parents(path):
    while path := os.path.dirname(path):
        yield path


def libraries(binary):
    """What a binary is linked with, each under the path at which the loader looks for it."""
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
    return {found.lstrip("/"): os.path.realpath(found) for found in re.findall(r"(/\S+) \(0x", listed)}


def write_image(path, names, content, config):
    """An archive with one image under one or several names."""
    blobs = {}

    def put(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    data = layer(content)
    layers = [put(data, "application/vnd.oci.image.layer.v1.tar")]
    described = {"architecture": "amd64", "os": "linux", "config": config,
                 "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]}}
    manifest = put(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(described).encode(), "application/vnd.oci.image.config.v1+json"), "layers": layers,
    }).encode(), "application/vnd.oci.image.manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [
        {**manifest, "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}}
        for name in names]}
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}
    with open(path, "wb") as file:
        file.write(layer(files))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder")
    arguments.add_argument("--coredns")
    arguments.add_argument("--reviews")
    given = arguments.parse_args()
    os.makedirs(given.folder, exist_ok=True)

    def write(name, *rest):
        write_image(os.path.join(given.folder, name + ".tar"), *rest)

    if given.coredns:
        # The pause container only has to be there: kubelet asks for no shared process namespace that it would have to reap.
        write("pause", ["box.local/pause:1"], {"bin/busybox": "/bin/busybox"}, {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]})
        write("coredns", ["box.local/coredns:1"], {"coredns": given.coredns}, {"Entrypoint": ["/coredns"]})
    if given.reviews:
        # Under two names: a rollout to a new image needs another one.
        write("reviews", ["localhost/reviews:1", "localhost/reviews:2"],
              {"reviews": given.reviews, **libraries(given.reviews), **USERS}, {"Entrypoint": ["/reviews"], "User": "65534"})


main()
