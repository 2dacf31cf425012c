# The router. Build with deploy/build-images.sh, which gathers the wheels; the context is build/wheels/router:
#   deps/  the wheels of deploy/requirements/router.txt      app/  the wheel of this project
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS deps
COPY deps /wheels
RUN python3 -m venv /opt/argosy \
 && /opt/argosy/bin/python -m pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
 && /opt/argosy/bin/python -m pip uninstall --yes --quiet setuptools pip

# The project's own code is a layer of its own: a change of it leaves the large layer as it is.
FROM ${BASE_IMAGE} AS app
COPY app /wheels
RUN python3 -m venv /tmp/venv \
 && /tmp/venv/bin/python -m pip install --no-cache-dir --no-index --no-deps --target /opt/app /wheels/*.whl \
 && rm -rf /opt/app/bin /opt/app/argosy_worker /opt/app/argosy_operator /opt/app/argosy_cli

FROM ${BASE_IMAGE}
COPY --from=deps /opt/argosy /opt/argosy
COPY --from=app /opt/app /opt/app
# The root file system is read-only in a pod: modules were compiled above, and none is written at run time.
# USER: libraries ask for a name, and no user id of a pod has one.
ENV PATH=/opt/argosy/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    USER=argosy
USER 65532:65532
RUN python -c 'import argosy_router.app'
ENTRYPOINT []
CMD ["python", "-m", "argosy_router"]
