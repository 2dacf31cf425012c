"""What a cluster says of its InferenceDeployments, for people."""
