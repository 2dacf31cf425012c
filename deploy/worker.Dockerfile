# The worker. Build with deploy/build-images.sh, which gathers the wheels; the context is build/wheels/worker (or worker-cuda):
#   deps/  torch, the wheels of deploy/requirements/worker.txt, and the packages that carry models
#   app/   the wheel of this project
# Which torch lies in deps/ (TORCH_VARIANT=cpu or cuda of the build script) is all that tells a CPU image from a CUDA image:
# the CUDA build brings the libraries that it needs as wheels, and the driver comes from the node. So the base is the same.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS deps
COPY deps /wheels
# What is thrown away is needed to compile against torch or to test the packages, never to run them; the last line makes sure.
RUN python3 -m venv /opt/argosy \
 && /opt/argosy/bin/python -m pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
 && /opt/argosy/bin/python -m pip uninstall --yes --quiet pip \
 && cd /opt/argosy/lib/python3*/site-packages \
 && rm -rf torch/include torch/share torch/lib/*.a torch/test \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find numpy sympy networkx mpmath -type d -name tests -prune -exec rm -rf {} + \
 && /opt/argosy/bin/python -c 'import torch; torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))'

# The project's own code is a layer of its own: a change of it leaves the large layer as it is.
FROM ${BASE_IMAGE} AS app
COPY app /wheels
RUN python3 -m venv /tmp/venv \
 && /tmp/venv/bin/python -m pip install --no-cache-dir --no-index --no-deps --target /opt/app /wheels/*.whl \
 && rm -rf /opt/app/bin /opt/app/argosy_router /opt/app/argosy_operator /opt/app/argosy_cli /opt/app/argosy_kube

FROM ${BASE_IMAGE}
COPY --from=deps /opt/argosy /opt/argosy
COPY --from=app /opt/app /opt/app
# The root file system is read-only in a pod: modules were compiled above, and none is written at run time.
# USER: libraries ask for a name, and no user id of a pod has one.
# NVIDIA_*: what the NVIDIA container runtime looks at; without it they mean nothing.
ENV PATH=/opt/argosy/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    USER=argosy NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
RUN python -c 'import argosy_worker.serve.app, argosy_worker.models.build' \
 && python -c 'from argosy_worker.compute.native import library as native; raise SystemExit(native.load() is None and "the wheel has no native CPU kernels that run here: was there no C++ compiler?")'
ENTRYPOINT []
CMD ["python", "-m", "argosy_worker"]
