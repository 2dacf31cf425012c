"""The sections of an InferenceDeployment's spec. Others take the types from `argosy_api.resource`, but for a
worker's process, which is there sooner without the sections that do not concern it (`argosy_api.worker_spec`).
"""
