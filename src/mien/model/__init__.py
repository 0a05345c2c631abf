"""The affinity convolution, the AC-CNN made of it, its losses and its export."""
