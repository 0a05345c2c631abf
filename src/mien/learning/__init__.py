"""The training loop, guided clustering, pseudo-labels and joint learning."""
