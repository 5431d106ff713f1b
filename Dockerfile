# The image of istiod-lite: control plane, sidecar, gateway and the init container that captures traffic.
#
# `make image` makes the file system (target/image/rootfs.tar) without a registry and without this file; tests and clusters use
# its OCI form (target/image/istiod-lite.tar). This Dockerfile puts the same file system into a registry's format.
# `docker build` itself is not run here, because the project's machines have neither Docker nor a registry.

FROM scratch
ADD target/image/rootfs.tar /
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ENVOY=/usr/local/bin/envoy
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/istiod-lite"]
