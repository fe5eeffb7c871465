"""From ShareGPT rows to token tables and the manifests of the training mixes."""
