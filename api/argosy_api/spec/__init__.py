"""The sections of an InferenceDeployment's spec. Others take the types from `argosy_api.resource`."""
